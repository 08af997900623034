"""TIFF stacks: each page is a B-scan. A file of one page is decoded as every other image is."""

import io

from PIL import Image, UnidentifiedImageError

from octlet.clinical.volume import MAX_SCANS, Keys, Volume, check_size, damaged
from octlet.core.errors import InputError
from octlet.core.image import DAMAGED, Gray, decode, to_gray


def read(data: bytes, name: str, keys: Keys) -> list[Volume]:
    """Read the pages of a TIFF file, which tell neither eye nor patient.

    Raises InputError: damaged, too large, pages of different sizes, or what `decode` refuses.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
            if not _has_page(image, 1):
                return [Volume(name, None, None, (decode(data, name),), picture=True)]
            return [Volume(name, None, None, tuple(_pages(image, name)))]
    except UnidentifiedImageError as error:
        raise InputError("not a TIFF file", path=name, remedy="name the file by what it is") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError("a page is too large", path=name, remedy="export one volume of B-scans") from error
    except (*DAMAGED, MemoryError) as error:
        raise damaged(name, "a page cannot be decoded") from error


def _has_page(image: Image.Image, index: int) -> bool:
    try:
        image.seek(index)
    except EOFError:
        return False
    return True


def _pages(image: Image.Image, name: str) -> list[Gray]:
    image.seek(0)
    size = image.size
    pages: list[Gray] = []
    while len(pages) <= MAX_SCANS and _has_page(image, len(pages)):
        check_size(name, len(pages) + 1, image.height, image.width)
        if image.size != size:
            rule = f"page {len(pages) + 1} is {image.width}x{image.height}, the first {size[0]}x{size[1]}"
            raise InputError(rule, path=name, remedy="keep the B-scans of one volume alone in the file")
        pages.append(to_gray(image, name).copy())
    check_size(name, len(pages), size[1], size[0])
    return pages
