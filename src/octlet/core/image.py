"""From a file's bytes to the array a network sees: ONE piece of code, in training and on the device.

    bytes -> decode -> gray uint8 (H, W) -> prepare -> uint8 (S, S) -> normalise -> float32 (N, 1, S, S)

Everything up to `normalise` is integer arithmetic, so two machines that decode the same bytes hold the same
array, and a cache of `prepare`d scans is exact. Why the result does not tell the scan's shape:
docs/preprocessing.md.
"""

import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from octlet.core.errors import InputError

if TYPE_CHECKING:  # Pillow is imported where it is used: meanwhile `octlet predict` loads its engine
    from PIL import Image

FORMATS = ("BMP", "JPEG", "PNG", "TIFF")
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff"})
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 40_000_000
MIN_SIDE = 16

Gray = NDArray[np.uint8]


def read_scan(path: str | Path) -> Gray:
    """Read and decode an image file; see `decode`.

    Raises InputError when the file is missing, not a file, empty, over `MAX_BYTES` or not decodable.
    """
    file = Path(path)
    if not file.exists():
        raise InputError("no such file", path=file, remedy="check the path")
    if not file.is_file():
        raise InputError("not a file", path=file, remedy="give an image file")
    size = file.stat().st_size
    if size > MAX_BYTES:
        rule = f"the file has {size / 2**20:.0f} MiB, over the limit of {MAX_BYTES // 2**20} MiB"
        raise InputError(rule, path=file, remedy="export the B-scan as one JPEG or PNG image")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path=file, remedy="check its rights") from error
    return decode(data, str(file))


# what Pillow's decoders raise on damaged data; the last four from its TIFF reader
DAMAGED = (OSError, SyntaxError, ValueError, ArithmeticError, LookupError, TypeError, struct.error)


def decode(data: bytes, name: str) -> Gray:
    """Decode one gray, colour or palette image to 8-bit gray.

    16-bit samples are scaled by their full range (value / 257); colour becomes ITU-R 601 luma.

    Args:
        data: the bytes of a BMP, JPEG, PNG or TIFF file with a single frame.
        name: what to call it in an error.

    Returns:
        uint8 (H, W), both sides at least 16.

    Raises:
        InputError: empty, truncated, not an image, of another format, animated or stacked, transparent,
            of over `MAX_PIXELS` pixels or of a side under `MIN_SIDE`.
    """
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise InputError("the file is empty", path=name, remedy="export the scan again")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_frame(image, name)
            return to_gray(image, name)
    except UnidentifiedImageError as error:
        rule = f"not a readable {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image"
        raise InputError(rule, path=name, remedy="export the B-scan as JPEG or PNG") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(name) from error
    except DAMAGED as error:
        rule = f"the image is damaged or cut short: {error}"
        raise InputError(rule, path=name, remedy="copy or export the scan again") from error


def _too_large(name: str) -> InputError:
    rule = f"the image has over {MAX_PIXELS // 1_000_000} million pixels"
    return InputError(rule, path=name, remedy="give a single B-scan")


def _check_frame(image: "Image.Image", name: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(name)
    if min(image.size) < MIN_SIDE:
        rule = f"the image is {image.width}x{image.height}; both sides must have at least {MIN_SIDE} pixels"
        raise InputError(rule, path=name, remedy="give a whole B-scan")
    frames = getattr(image, "n_frames", 1)
    if frames != 1:
        rule = f"the file holds {frames} images"
        raise InputError(rule, path=name, remedy="save each B-scan as a file of its own")


_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # TIFF 6.0, section 8


def to_gray(image: "Image.Image", name: str) -> Gray:
    """Return the frame that an opened image is at as uint8 (H, W), by the rules of `decode`.

    Raises InputError for transparent pixels and for samples without a stated range, and what Pillow raises.
    """
    if image.mode.startswith("I;16"):
        wide: NDArray[Any] = np.asarray(image).astype(np.uint32)
        if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # Pillow turns 8 bits alone
            wide = 65535 - wide
        return ((wide + 128) // 257).astype(np.uint8)
    if image.mode in ("I", "F"):
        rule = f"pixels of mode '{image.mode}' have no stated range"
        raise InputError(rule, path=name, remedy="save the scan with 8 or 16 bits a sample")
    if "A" in image.getbands() or "transparency" in image.info:
        alpha = image.convert("RGBA").getchannel("A")
        if alpha.getextrema() != (255, 255):
            raise InputError("the image has transparent pixels", path=name, remedy="save it without alpha")
    return np.asarray(image.convert("RGB").convert("L") if image.mode != "L" else image)


@dataclass(frozen=True)
class Prepared:
    """A scan in the network's frame.

    Attributes:
        pixels: uint8 (S, S).
        box: (left, top, right, bottom) of the part of the scan that `pixels` shows, in scan pixels.
    """

    pixels: Gray
    box: tuple[int, int, int, int]


WHITE = 245  # JPEG leaves white padding between 246 and 255
SMEAR = 10  # grey levels that compression moves padding, and what lies beside it, up or down
BRIGHTER = 1000  # of so many pixels one may be brighter than padding that is not white
LEAST = 64  # of so many pixels of the edges one at least belongs to such padding
LIFTED = 40  # grey levels, at least, from the median of what is not so bright to such padding
FRINGE = 3  # compression smears the padding's edge over this many pixels


def padding_mask(gray: Gray) -> NDArray[np.bool_]:
    """Return where a scan is padding: runs of near-white down from the top or up from the bottom.

    Scanners that correct motion or tilt leave white bars and wedges, and every one of them reaches a corner.
    Runs from the sides are not looked at: saturated layers meet the sides, and run along them.

    Where a viewer has changed brightness or contrast, white has become grey, and is still what next to
    nothing is brighter than: see `_near_white`.

    Args:
        gray: uint8 (H, W).

    Returns:
        bool (H, W).
    """
    mask = np.zeros(gray.shape, np.bool_)
    limit = _near_white(gray)
    if limit is None:  # many scans
        return mask
    white = gray >= limit
    for flip in (slice(None), slice(None, None, -1)):
        from_edge = white[flip]
        reached = np.flatnonzero(from_edge[0])  # few columns, in most scans none
        mask[flip][:, reached] |= np.logical_and.accumulate(from_edge[:, reached], axis=0)
    if not mask.any():
        return mask
    return _grown(_grown(mask, FRINGE).T, FRINGE).T


def _near_white(gray: Gray) -> int | None:
    """Return from which grey level up a pixel may be padding; None where neither edge has any.

    `WHITE` where that is what the brightest of the upper and lower edge are; or else what is within `SMEAR`
    of them, if they are many and of one level, as tissue is not, next to nothing is brighter, and the rest of
    the scan is darker.
    """
    edges = np.concatenate((gray[0], gray[-1]))
    brightest = int(edges.max())
    bright = edges[edges >= brightest - 3 * SMEAR]  # compression overshoots beside padding
    fewest = len(bright) // 20
    low, high = at_ranks(bright, fewest, len(bright) - 1 - fewest)
    if low < WHITE and high - low <= SMEAR and len(bright) * LEAST >= len(edges):
        level = median(bright)
        darker = gray[gray < max(level - SMEAR, 0)]
        brighter = np.count_nonzero(gray > min(level + SMEAR, 255))
        if brighter * BRIGHTER <= gray.size and darker.size and level - median(darker) >= LIFTED:
            return min(level - SMEAR, WHITE)
    return WHITE if brightest >= WHITE else None


def _grown(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Return a mask, (H, W), that reaches so many pixels further up and down."""
    grown = mask.copy()
    for step in range(1, reach + 1):
        grown[step:] |= mask[:-step]
        grown[:-step] |= mask[step:]
    return grown


def at_ranks(values: Gray, *ranks: int) -> list[int]:
    """Return which grey values stand at these places, from 0, once they are sorted; they are counted instead.

    Args:
        values: uint8, of any shape.
        ranks: each from 0 to the number of values less one.
    """
    up_to = np.bincount(values.ravel(), minlength=256).cumsum()
    return [int(np.searchsorted(up_to, rank, side="right")) for rank in ranks]


def median(values: Gray) -> int:
    """Return the median of n > 0 grey values, 0 to 255, rounded down where it falls between two."""
    return sum(at_ranks(values, (values.size - 1) // 2, values.size // 2)) // 2


def prepare(gray: Gray, size: int) -> Prepared:
    """Crop white padding, blank what is left of it, and fit the retina to the network's square input.

    Rows and columns that are padding throughout are cut off; wedges that remain take the median of the rest
    (vitreous or choroid, dark). Of the height a window about the retina is kept (`retina_window`). Then each
    axis is scaled by itself: the scan's field of view fills the square, whatever the number of samples along
    it. No bars are added, see docs/preprocessing.md.

    Args:
        gray: uint8 (H, W), as `decode` returns it.
        size: S, the side of the network's input in pixels.

    Raises:
        InputError: nothing but padding.
    """
    from PIL import Image

    padding = padding_mask(gray)
    if padding.all():
        raise InputError("the image is white throughout", remedy="give a B-scan")
    padded = bool(padding.any())
    level = median(gray[~padding] if padded else gray)
    scan = np.where(padding, np.uint8(level), gray) if padded else gray
    rows, columns = np.flatnonzero(~padding.all(axis=1)), np.flatnonzero(~padding.all(axis=0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    inside = scan[rows[0] : rows[-1] + 1, left:right]
    above, below = retina_window(inside, level)
    top, bottom = int(rows[0]) + above, int(rows[0]) + below
    cut = Image.fromarray(np.ascontiguousarray(scan[top:bottom, left:right]))
    fitted = cut.resize((size, size), Image.Resampling.BILINEAR)  # Pillow's filter widens when it shrinks
    return Prepared(np.asarray(fitted), (left, top, right, bottom))


SHARE = 64  # percent of the height
MARGIN = 15  # grey levels above the median from which a pixel counts as tissue


def retina_window(scan: Gray, level: int) -> tuple[int, int]:
    """Return the rows (first, last + 1) about the retina: what is above and below it is vitreous and sclera.

    `SHARE` of the height about the rows' median of tissue, so that thickness keeps its scale; more where
    the rows between 1 % and 99 % of the tissue, of a tilted or swollen retina, need it. A narrower retina to
    one side of its median row may lose more than 1 % at the other. A scan without tissue is kept whole.

    Args:
        scan: uint8 (h, w), without padding.
        level: its median.
    """
    height = len(scan)
    excess = np.maximum(np.arange(256) - (level + MARGIN), 0).astype(np.uint8)  # of each grey value
    tissue = excess[scan].sum(axis=1, dtype=np.int64).cumsum()
    if not tissue[-1]:
        return 0, height
    first, middle, last = (int(np.searchsorted(tissue, part * tissue[-1] // 100)) for part in (1, 50, 99))
    rows = SHARE * height // 100
    if last + 1 - first > rows:
        rows, middle = last + 1 - first, (first + last + 1) // 2
    above = min(max(middle - rows // 2, 0), height - rows)
    return above, above + rows


def normalise(pixels: Gray) -> NDArray[np.float32]:
    """Map prepared scans, uint8 (N, S, S) in 0..255, to float32 (N, 1, S, S) in -1..1: ``p / 127.5 - 1``."""
    return (pixels[:, None].astype(np.float32) / np.float32(127.5)) - np.float32(1.0)


# What a manifest records of the above; a model file of another recipe is refused, not reinterpreted.
RECIPE = {
    "crop": "white-padding, retina window",
    "fit": "field-of-view",
    "resample": "bilinear",
    "range": [-1.0, 1.0],
}
