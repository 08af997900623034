"""From a request's body to encoded images and volumes, in memory only: they are patients' data."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from octlet.serve.limits import FILES
from octlet.serve.refusal import RequestError

FORM = "multipart/form-data"
IMAGES = ("image/bmp", "image/jpeg", "image/png", "image/tiff")
UNNAMED = "scan"  # what a body without a form is called
DICOM = "application/dicom"  # RFC 3240
_REMEDY = "send one image or DICOM file with its Content-Type, or a form: curl -F scan=@scan.jpeg"


@dataclass(frozen=True)
class Upload:
    """One encoded image or volume: what its sender calls it, and its bytes."""

    name: str
    data: bytes


async def read_uploads(request: Request, most: int) -> list[Upload]:
    """Read the files of a request, at least one and of `most` bytes together.

    Raises:
        RequestError: 400 a form that is malformed, cut short, or not of 1 to `FILES` files; 413 too
            large, found out before it is all read; 415 neither a form nor an image nor DICOM, or compressed.
        ClientDisconnect: the client has gone.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if (
        kind not in (FORM, *IMAGES, DICOM)
        or request.headers.get("content-encoding", "identity") != "identity"
    ):
        rule = f"the body is neither {FORM} nor {', '.join(IMAGES)} or {DICOM}"
        raise RequestError(415, rule, remedy=_REMEDY)
    async with aclosing(_limited(request, most)) as body:
        if kind == FORM:
            return await _read_form(request, body)
        name = f"{UNNAMED}.dcm" if kind == DICOM else UNNAMED
        return [Upload(name, b"".join([chunk async for chunk in body]))]


async def _limited(request: Request, most: int) -> AsyncGenerator[bytes, None]:
    """Yield the body, and stop where it is more than was promised or allowed."""
    refusal = RequestError(413, f"the body has over {most} bytes", remedy="send fewer or smaller images")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        raise refusal
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise refusal
        yield chunk


class _FormParser(MultiPartParser):
    spool_max_size = 0  # never to a file
    complete = False

    def on_end(self) -> None:
        """Note the end: without it a last file that was cut off would be left out in silence."""
        self.complete = True


async def _read_form(request: Request, body: AsyncGenerator[bytes, None]) -> list[Upload]:
    parser = _FormParser(request.headers, body, max_files=FILES, max_fields=0)
    try:
        form = await parser.parse()
    except (MultiPartException, FormParserError) as error:  # Starlette wraps the second from 1.7 on
        raise RequestError(400, f"the form cannot be read: {error}", remedy=_REMEDY) from error
    except (LookupError, UnicodeError) as error:  # a charset that Python does not know, or none for text
        raise RequestError(400, "the form's charset cannot be used", remedy="send it without one") from error
    files = [file for _, file in form.multi_items() if isinstance(file, UploadFile)]
    if not parser.complete or not files:
        rule = "the form holds no file" if parser.complete else "the form is cut short"
        raise RequestError(400, rule, remedy=_REMEDY)
    return [Upload(file.filename or "", await file.read()) for file in files]
