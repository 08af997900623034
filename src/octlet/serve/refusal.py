"""How a request is refused: every error, whoever found it, is one JSON document of one shape.

    {"error": {"code": "too-large", "file": null, "message": "...", "remedy": "..."}}

It is the shape of every verb's `--json`. What `octlet.core.errors` raises keeps its code; what only HTTP
knows has one of `CODES`.
"""

from collections.abc import Mapping
from types import MappingProxyType

from starlette.responses import JSONResponse, Response

from octlet.core.errors import InputError, OctletError, UsageError

CODES: Mapping[int, str] = MappingProxyType(
    {
        400: "bad-request",
        401: "no-token",
        403: "other-origin",
        404: "not-found",
        405: "method-not-allowed",
        408: "slow-upload",
        413: "too-large",
        415: "media-type",
        421: "other-host",
        429: "busy",
        503: "stopping",
        504: "time-limit",
    }
)


class RequestError(UsageError):
    """A request that is answered with `status`, one of `CODES`, and with `headers`."""

    def __init__(
        self, status: int, rule: str, *, remedy: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(rule, remedy=remedy)
        self.status = status
        self.code = CODES[status]
        self.headers = headers


def status_of(error: OctletError) -> int:
    """Return the HTTP status: a refusal's own, 422 for a scan, 400 for a setting, 500 for our own faults."""
    if isinstance(error, RequestError):
        return error.status
    if isinstance(error, InputError):
        return 422
    return 400 if isinstance(error, UsageError) else 500


def error_response(error: OctletError) -> Response:
    """Return an error as a response; of our own faults without the path, which is none of a client's."""
    status = status_of(error)
    document = error.as_dict() | ({"file": None} if status == 500 else {})
    headers = error.headers if isinstance(error, RequestError) else None
    return JSONResponse({"error": document}, status, headers)
