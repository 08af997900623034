"""Writes clinical files as the formats have them, with nothing of the code that reads them."""

import io
import struct
from typing import Any

import numpy as np
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

OPT = "1.2.840.10008.5.1.4.1.1.77.1.5.4"
SIZE = (48, 40)  # height and width


def grays(count: int, size: tuple[int, int] = SIZE, seed: int = 0) -> np.ndarray:
    """Smooth scans with every gray value in range, uint8 (count, H, W)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 4, 4)).astype(np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(each).resize(size[::-1], Image.Resampling.BICUBIC)) for each in coarse]
    )


def dataset(pixels: np.ndarray, **elements: Any) -> Dataset:
    """An OPT object of gray frames (n, H, W), or of colour ones (n, H, W, 3)."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = OPT
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    made.Modality = "OPT"
    made.NumberOfFrames, made.Rows, made.Columns = pixels.shape[:3]
    made.SamplesPerPixel = 3 if pixels.ndim == 4 else 1
    if pixels.ndim == 4:
        made.PlanarConfiguration = 0
    made.PhotometricInterpretation = "RGB" if pixels.ndim == 4 else "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 8 * pixels.itemsize
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    made.PixelData = pixels.tobytes()
    for key, value in elements.items():
        if value is None:
            delattr(made, key)
        else:
            setattr(made, key, value)
    return made


def dicom(made: Dataset) -> bytes:
    buffer = io.BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def coded(made: Dataset, frames: list[bytes], syntax: str) -> Dataset:
    """The dataset with frames that are compressed already."""
    made.PixelData = encapsulate(frames)
    made["PixelData"].is_undefined_length = True
    made.file_meta.TransferSyntaxUID = syntax
    return made


def item(**elements: Any) -> Dataset:
    made = Dataset()
    for key, value in elements.items():
        setattr(made, key, value)
    return made


def vol(
    raw: np.ndarray, *, eye: str = "OD", patient: str = "", pattern: int = 3, slo: int = 16, number: int = 3
) -> bytes:
    """A Heidelberg .vol of reflectivities, float32 (n, H, W)."""
    count, height, width = raw.shape
    head = bytearray(2048)
    struct.pack_into(
        "<12s3I3d2I2d", head, 0, b"HSF-OCT-103", width, count, height, 0.01, 0.1, 0.004, slo, slo, 1, 1
    )
    struct.pack_into("<4sQiI", head, 84, eye.encode(), 130_000_000_000_000_000, pattern, 256)
    struct.pack_into("<I24sdI24sd", head, 136, 7, patient.encode(), 20000.0, number, b"visit", 44000.0)
    scan = struct.pack("<12sI4d2IfI6f168x", b"HSF-BS-103", 256, 0, 0, 1, 0, 0, 256, 30, 0, *[0] * 6)
    return bytes(head) + bytes(slo * slo) + b"".join(scan + each.astype("<f4").tobytes() for each in raw)


def e2e(series: dict[tuple[int, int, int], np.ndarray], eyes: dict[int, str], patient: str = "") -> bytes:
    """A Heidelberg .e2e: 16-bit codes (n, H, W) by (patient, study, series), the eyes by series."""
    parts: list[tuple[tuple[int, int, int, int], int, int, bytes]] = []
    for key, codes in series.items():
        person = struct.pack("<31s66sI1s25s4x", b"First", b"Last", 20000101, b"F", patient.encode())
        parts.append(((key[0], -1, -1, -1), 0, 9, person))
        parts.append(((*key, -1), 0, 11, bytes(14) + eyes[key[2]].encode() + bytes(12)))
        text = struct.pack("<2I", 2, 256) + b"".join(
            w.encode("utf-16-le").ljust(256, b"\0") for w in ("Infra-Red", "IR")
        )
        parts.append(((*key, -1), 0, 9007, text))
        for k, image in list(enumerate(codes))[::-1]:  # the last one first: the order is that of the slices
            meta = struct.pack(
                "<3I4fI3fI2fI4I2fIQIff12xI",
                0,
                *image.shape,
                0,
                k,
                5,
                k,
                0,
                0,
                0.004,
                0,
                0,
                0,
                0,
                0,
                image.shape[1],
                len(codes),
                k,
                3,
                2.5,
                k,
                0,
                0,
                1,
                0,
                0,
                1,
            ).ljust(428, b"\0")
            head = struct.pack("<5I", 2 * image.size, 0x02200201, image.size, *image.shape)
            parts.append(((*key, 2 * k), 1, 10004, meta))
            parts.append(((*key, 2 * k), 1, 0x40000000, head + image.astype("<u2").tobytes()))
    directory = 36 + 52
    start = directory + 52 + 44 * len(parts)
    entries, data = b"", b""
    for number, (key, kind, code, content) in enumerate(parts):
        place = start + len(data)
        entry = directory + 52 + 44 * number
        ids = struct.pack("<4i2H2I", *key, kind, 0, code, 0)
        entries += struct.pack("<4I", entry, place, len(content), 0) + ids
        data += struct.pack("<12s5I", b"MDbData", 0, entry, place, len(content), 0) + ids + content
    table = struct.pack("<12sI20x4I", b"MDbDir", 100, len(parts), directory, 0, 0)
    main = struct.pack("<12sI20x4I", b"MDbMDir", 100, 512, directory, 0, 0)
    return struct.pack("<12sI20x", b"CMDb", 100) + main + table + entries + data


def fda(images: np.ndarray, *, eye: int = 0, patient: str = "", form: str = "JPEG2000") -> bytes:
    """A Topcon .fda of scans, uint8 (n, H, W)."""
    count, height, width = images.shape
    scans = struct.pack("<B6I", 2, 0, 0, width, height, count, 0)
    for image in images:
        buffer = io.BytesIO()
        options = {"irreversible": False} if form == "JPEG2000" else {"quality": 100}
        Image.fromarray(image).save(buffer, form, **options)
        scans += struct.pack("<I", len(buffer.getvalue())) + buffer.getvalue()
    capture = struct.pack("<2BI100s6H", eye, 2, 1, b"label", 2020, 5, 6, 7, 8, 9)
    person = (
        patient.encode().ljust(32, b"\0") + b"First".ljust(32, b"\0") + b"Last".ljust(32, b"\0") + bytes(500)
    )
    chunks = {"@PATIENT_INFO_02": person, "@IMG_JPEG": scans, "@CAPTURE_INFO_02": capture}
    body = b"".join(
        bytes([len(name)]) + name.encode() + struct.pack("<I", len(data)) + data
        for name, data in chunks.items()
    )
    return b"FOCT" + b"FDA" + struct.pack("<2I", 2, 1000) + body + b"\0"


def tiff(images: list[np.ndarray]) -> bytes:
    pages = [Image.fromarray(each) for each in images]
    buffer = io.BytesIO()
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    return buffer.getvalue()
