"""DICOM: which images are OCT, whose and of which eye, and what of that leaves this module.

Only the elements that are needed are read: a patient's name, birth date or address never reaches memory as
a value.
"""

import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from octlet.clinical.volume import MAX_VOLUME_BYTES, Keys, Volume, check_size, damaged
from octlet.core.errors import InputError

# PS3.6, annex A
OCT_IMAGE = "1.2.840.10008.5.1.4.1.1.77.1.5.4"  # Ophthalmic Tomography Image Storage
SECONDARY = "1.2.840.10008.5.1.4.1.1.7"  # Secondary Capture; .7.1 to .7.4 are its multi-frame forms
OCT = "OPT"  # Modality (0008,0060), PS3.3 C.7.3.1.1.1
_DEFLATED = b"1.2.840.10008.1.2.1.99"

# A modality is told by its code only where it is one of these: what stands there may be anything.
_MODALITIES = ("CR", "CT", "DX", "IVOCT", "MG", "MR", "NM", "OCT", "OP", "OPTENF", "OPTBSV", "PT", "US", "XA")

_PALETTE = [
    f"{segmented}{colour}PaletteColorLookupTable{part}"
    for colour in ("Red", "Green", "Blue")
    for segmented, part in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
]
_TAGS = [
    *("SOPClassUID", "Modality", "BurnedInAnnotation", "PatientID", "StudyInstanceUID", "SeriesInstanceUID"),
    *("InstanceNumber", "ImageLaterality", "Laterality", "SharedFunctionalGroupsSequence"),
    *("PerFrameFunctionalGroupsSequence", "SamplesPerPixel", "PhotometricInterpretation"),
    *("PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "WindowCenter", "WindowWidth"),
    *("VOILUTFunction", "VOILUTSequence", *_PALETTE),
]

# What pydicom and the decoders behind it raise on damaged data. They hold no rule of their own for it.
DAMAGED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


def read(data: bytes, name: str, keys: Keys, *, any_modality: bool = False) -> list[Volume]:
    """Read the image of a DICOM file: one volume, or one for each eye that its frames name.

    Raises InputError: pydicom is not installed; not DICOM, damaged or too large; without pixels; of a
    modality other than ophthalmic tomography; with burned-in text; compressed in a way that nothing
    installed decodes.
    """
    try:
        from pydicom.errors import BytesLengthException

        from octlet.clinical.dicom_pixels import gray_frames
    except ModuleNotFoundError as error:
        rule = f"reading DICOM needs the Python package '{error.name}'"
        raise InputError(rule, path=name, remedy='pip install "octlet[clinical]"') from error
    with _quiet():
        try:
            dataset = _parse(data, name)
            if not any_modality:
                _check_kind(dataset, name)
            _check_shape(dataset, name)
            frames = tuple(gray_frames(dataset, name))
            return _volumes(dataset, frames, name, keys)
        except (BytesLengthException, *DAMAGED):  # their words may hold a value of the file
            raise damaged(name, "not as DICOM has it") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings away from every log: they quote values, a patient's name too."""
    loggers = [logging.getLogger(each) for each in ("pydicom", "pylibjpeg", "openjpeg")]
    before = [each.disabled for each in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for each in loggers:
            each.disabled = True
        try:
            yield
        finally:
            for each, was in zip(loggers, before, strict=True):
                each.disabled = was


def _parse(data: bytes, name: str) -> Any:
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    _check_inflated(data, name)
    try:
        dataset = dcmread(BytesIO(data), specific_tags=_TAGS)
    except InvalidDicomError:
        rule, remedy = "not a DICOM file (no 'DICM' at byte 128)", "export it as a DICOM file (PS3.10)"
        raise InputError(rule, path=name, remedy=remedy) from None
    if "PixelData" not in dataset:
        raise InputError("the DICOM object holds no image", path=name, remedy="export the volume itself")
    return dataset


def _check_inflated(data: bytes, name: str) -> None:
    """Refuse a deflated file that would fill the memory: pydicom inflates it whole, whatever comes of it."""
    if _DEFLATED not in data[:1024]:
        return
    start = 144 + struct.unpack_from("<I", data, 140)[0]  # behind the group length of the file meta elements
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflater.decompress(data[start:], MAX_VOLUME_BYTES)
    if inflater.unconsumed_tail:
        rule = f"it inflates to over {MAX_VOLUME_BYTES // 2**20} MiB"
        raise InputError(rule, path=name, remedy="export one volume at a time")


def _check_kind(dataset: Any, name: str) -> None:
    """Refuse what says that it is no OCT; a secondary capture says nothing, and the model has to judge it."""
    kind, modality = str(dataset.get("SOPClassUID", "")), str(dataset.get("Modality", "") or "")
    captured = kind == SECONDARY or kind.startswith(SECONDARY + ".")
    if not (kind == OCT_IMAGE or modality == OCT or (captured and modality in ("", "OT"))):
        told = f"its modality is {modality}" if modality in _MODALITIES else "its modality is another"
        rule = f"not ophthalmic tomography ({OCT}): {told}"
        raise InputError(rule, path=name, remedy="give the B-scans of an OCT volume")
    if str(dataset.get("BurnedInAnnotation", "")).upper() == "YES":
        rule = "its pixels hold burned-in text, which may name the patient"
        raise InputError(rule, path=name, remedy="export the B-scans without text in the image")


def _check_shape(dataset: Any, name: str) -> None:
    frames = int(dataset.get("NumberOfFrames", None) or 1)
    check_size(name, frames, int(dataset.Rows), int(dataset.Columns))
    allowed = {1: (1, 8, 16, 32), 3: (8, 16)}.get(int(dataset.get("SamplesPerPixel", 1)), ())
    if int(dataset.BitsAllocated) not in allowed:
        rule = "its pixels are neither gray of 1 to 32 bits nor colour of 8 or 16"
        raise InputError(rule, path=name, remedy="export the volume as gray images of 8 bits")


def groups_of(dataset: Any, index: int, sequence: str) -> Any:
    """Return a frame's item of a functional group, its own or the shared one; None where there is neither."""
    own = dataset.get("PerFrameFunctionalGroupsSequence", None) or []
    shared = dataset.get("SharedFunctionalGroupsSequence", None) or []
    for item in (*own[index : index + 1], *shared[:1]):
        if found := item.get(sequence, None):
            return found[0]
    return None


def _eye_of(dataset: Any, index: int) -> str | None:
    anatomy = groups_of(dataset, index, "FrameAnatomySequence")
    told = anatomy.get("FrameLaterality", "") if anatomy is not None else ""
    told = told or dataset.get("ImageLaterality", "") or dataset.get("Laterality", "")
    return str(told) if told in ("R", "L") else None


def _volumes(dataset: Any, frames: tuple[Any, ...], name: str, keys: Keys) -> list[Volume]:
    patient = str(dataset.get("PatientID", "") or "").strip()
    visit = keys.link("study", dataset.get("StudyInstanceUID", ""))
    series = keys.link("series", dataset.get("SeriesInstanceUID", ""))
    number = int(dataset.get("InstanceNumber", None) or 0)
    eyes = [_eye_of(dataset, index) for index in range(len(frames))]
    return [
        Volume(
            name,
            eye,
            keys.subject(patient),
            tuple(frame for frame, of in zip(frames, eyes, strict=True) if of == eye),
            visit=visit,
            series=series,
            number=number,
        )
        for eye in dict.fromkeys(eyes)
    ]
