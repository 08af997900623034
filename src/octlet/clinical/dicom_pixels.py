"""From DICOM's stored values to gray, frame by frame.

    stored -> modality LUT or rescale -> VOI window or LUT -> 0..255, inverted for MONOCHROME1     (PS3.3
    C.11)

Without a window the whole range of the stored bits becomes 0..255. Colour becomes ITU-R 601 luma, as in
`octlet.core.image`.
"""

import io
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.encaps import generate_frames
from pydicom.multival import MultiValue
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import JPEGLossless, JPEGLosslessSV1, RLELossless

from octlet.clinical.dicom import groups_of
from octlet.clinical.volume import damaged
from octlet.core.errors import InputError
from octlet.core.image import Gray

_LOSSLESS_JPEG = (JPEGLossless, JPEGLosslessSV1)  # Pillow decodes 8 bits of it, but pydicom does not ask
_REMEDY = "export it uncompressed or as lossless JPEG 2000, or pip install python-gdcm"


def gray_frames(dataset: Any, name: str) -> Iterator[Gray]:
    """Yield each frame of a dataset as uint8 (H, W).

    Raises InputError: nothing installed decodes its compression, a coded frame is not of the stated size,
    or a window of an unknown function. On damaged data what pydicom, its decoders and Pillow raise.
    """
    expected = int(dataset.get("NumberOfFrames", None) or 1)
    done = 0
    for done, values in enumerate(_decoded(dataset, name, expected), start=1):
        if done > expected:
            raise damaged(name, "it holds more frames than it says")
        yield _to_gray(values, dataset, done - 1, name)
    if done != expected:
        raise damaged(name, f"it holds {done} frames and says {expected}")


def _decoded(dataset: Any, name: str, expected: int) -> Iterator[NDArray[Any]]:
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return iter_pixels(dataset)
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:  # a compression that pydicom does not know: of films, for one
        available = False
    by_pillow = syntax in _LOSSLESS_JPEG and dataset.BitsAllocated == 8
    if not available and not by_pillow:
        rule = f"nothing installed decodes its compression ({syntax.name})"
        raise InputError(rule, path=name, remedy=_REMEDY)
    _check_coded(dataset, name, expected)
    return _with_remedy(iter_pixels(dataset), name) if available else _by_pillow(dataset, expected)


def _with_remedy(frames: Iterator[NDArray[Any]], name: str) -> Iterator[NDArray[Any]]:
    try:
        yield from frames
    except RuntimeError:  # every decoder has refused: damaged, or of a depth that none of them takes
        raise InputError("its compressed pixels cannot be decoded", path=name, remedy=_REMEDY) from None


def _coded(dataset: Any, expected: int) -> Iterator[bytes]:
    table = dataset.get("ExtendedOffsetTable", None), dataset.get("ExtendedOffsetTableLengths", None)
    extended = table if all(table) else None
    return generate_frames(dataset.PixelData, number_of_frames=expected, extended_offsets=extended)


def _check_coded(dataset: Any, name: str, expected: int) -> None:
    """Refuse a coded frame of another size: a decoder fills the memory with what the frame says of itself."""
    height, width = int(dataset.Rows), int(dataset.Columns)
    stored = height * width * int(dataset.SamplesPerPixel) * max(int(dataset.BitsAllocated) // 8, 1)
    for frame in _coded(dataset, expected):
        if dataset.file_meta.TransferSyntaxUID == RLELossless:
            if len(frame) > 2 * stored + 1024:
                raise damaged(name, "a frame has more bytes than its pixels would")
        elif coded_size(frame) != (width, height):
            raise damaged(name, f"a coded frame is not {width}x{height}, as the file says")


def coded_size(frame: bytes) -> tuple[int, int] | None:
    """Return width and height in a frame's own header: JPEG (T.81), JPEG-LS (T.87), JPEG 2000 (T.800)."""
    at = frame.find(b"\xff\x4f\xff\x51", 0, 4096)
    if not frame.startswith(b"\xff\xd8"):
        if at < 0:
            return None
        right, bottom, left, top = struct.unpack_from(">4I", frame, at + 8)
        return right - left, bottom - top
    place = 2
    while place + 9 <= len(frame):
        marker, length = struct.unpack_from(">HH", frame, place)
        if marker == 0xFFF7 or (0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC)):
            height, width = struct.unpack_from(">HH", frame, place + 5)
            return width, height
        place += 1 if marker == 0xFFFF else 2 + length  # 0xFF may be repeated before a marker
    return None


def _by_pillow(dataset: Any, expected: int) -> Iterator[NDArray[Any]]:
    for frame in _coded(dataset, expected):
        with Image.open(io.BytesIO(frame), formats=("JPEG",)) as image:
            yield np.asarray(image)


def _to_gray(values: NDArray[Any], dataset: Any, index: int, name: str) -> Gray:
    photometric = str(dataset.PhotometricInterpretation)
    if photometric == "PALETTE COLOR":
        values = apply_color_lut(values, dataset)
    if values.ndim == 3:
        wide = values if values.dtype == np.uint8 else (values.astype(np.uint32) + 128) // 257
        return np.asarray(Image.fromarray(wide.astype(np.uint8)).convert("L"))
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        rule = "its pixels are neither gray nor colour that is read"
        raise InputError(rule, path=name, remedy="export the volume as gray images")
    gray = _shown(values, dataset, index, name)
    return 255 - gray if photometric == "MONOCHROME1" else gray


def _shown(values: NDArray[Any], dataset: Any, index: int, name: str) -> Gray:
    """Bring the stored values of a gray frame to 0..255, black to white."""
    bits, signed = int(dataset.BitsStored), bool(dataset.get("PixelRepresentation", 0))
    low = -(2 ** (bits - 1)) if signed else 0
    ends = np.array([low, low + 2**bits - 1], np.float64)
    rescale = groups_of(dataset, index, "PixelValueTransformationSequence") or dataset
    if rescale.get("ModalityLUTSequence", None):
        numbers = apply_modality_lut(values, rescale).astype(np.float64)
        ends = np.array([0, 2 ** int(rescale.ModalityLUTSequence[0].LUTDescriptor[2]) - 1], np.float64)
    else:
        slope, intercept = float(rescale.get("RescaleSlope", 1)), float(rescale.get("RescaleIntercept", 0))
        plain = (slope, intercept) == (1, 0)
        numbers, ends = values if plain else values * slope + intercept, np.sort(ends * slope + intercept)
    window = groups_of(dataset, index, "FrameVOILUTSequence") or dataset
    if window.get("VOILUTSequence", None):
        numbers = apply_voi(numbers.astype(np.int64), window)
        ends = np.array([0, 2 ** int(window.VOILUTSequence[0].LUTDescriptor[2]) - 1], np.float64)
    elif window.get("WindowWidth", None) is not None and window.get("WindowCenter", None) is not None:
        return _windowed(numbers, window, name)
    if values.dtype == np.uint8 and (numbers.dtype, *ends) == (np.uint8, 0, 255):
        return values
    if not (np.isfinite(ends).all() and ends[1] > ends[0]):
        raise damaged(name, "the range of its values is empty")
    return _to_bytes((numbers - ends[0]) / (ends[1] - ends[0]))


def _windowed(numbers: NDArray[np.float64], window: Any, name: str) -> Gray:
    """Apply the first window, PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    centre, width = (_first(window[key].value) for key in ("WindowCenter", "WindowWidth"))
    function = str(window.get("VOILUTFunction", None) or "LINEAR")
    if function == "SIGMOID" and width > 0:
        with np.errstate(over="ignore"):
            return _to_bytes(1 / (1 + np.exp(-4 * (numbers - centre) / width)))
    if function == "LINEAR_EXACT" and width > 0:
        return _to_bytes((numbers - centre) / width + 0.5)
    if function == "LINEAR" and width >= 1:
        if width == 1:
            return np.where(numbers <= centre - 0.5, 0, 255).astype(np.uint8)
        return _to_bytes((numbers - (centre - 0.5)) / (width - 1) + 0.5)
    raise damaged(name, "its window is not one that DICOM knows")


def _first(value: Any) -> float:
    return float(value[0] if isinstance(value, MultiValue | list) else value)


def _to_bytes(shares: NDArray[np.float64]) -> Gray:
    return np.rint(255 * np.clip(np.nan_to_num(shares), 0, 1)).astype(np.uint8)
