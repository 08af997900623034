"""Stands before the application: who may ask, what is logged, and what every answer carries.

A server on loopback is reached by every page that this machine's browser shows. Three rules keep them out:

- A request whose Origin is not the server's own is refused: a page elsewhere can send a form, and no other
  header tells it from ours. No CORS header is ever sent.
- Without a token, Host must name loopback. A stranger's name that is made to resolve to 127.0.0.1 (DNS
  rebinding) makes the stranger's page one of our origin, but its name stays in Host.
- With a token, every request carries it, but for the page's own files; a browser adds it to none of its own
  accord.
"""

import hmac
import ipaddress
import time
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from octlet.serve.metrics import Metrics
from octlet.serve.refusal import RequestError, error_response

GONE = 499  # in logs and metrics: the client did not wait for its answer
OTHER = "other"  # a path that is none of ours might hold anything, a patient's name too

_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """An ASGI application around another.

    `paths` may be named in logs and metrics; `public` are those that need no token.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str | None,
        paths: frozenset[str],
        public: frozenset[str],
        metrics: Metrics,
        log: Callable[[str], None],
    ) -> None:
        self._app = app
        self._token = None if token is None else token.encode()
        self._paths = paths
        self._public = public
        self._metrics = metrics
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an HTTP request, and log one line; the start and the end of the application pass through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = time.monotonic(), GONE

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self._check(Headers(scope=scope), public=scope["path"] in self._public)
            await self._app(scope, receive, sending)
        except RequestError as refusal:
            await error_response(refusal)(scope, receive, sending)
        except Exception as error:  # noqa: BLE001 - the application has answered; this is where it is told
            self._log(f"octlet: fault: {_place_of(error)}")
        finally:
            path = scope["path"] if scope["path"] in self._paths else OTHER
            self._metrics.request(path, status)
            self._log(f"{scope['method']} {path} {status} {1e3 * (time.monotonic() - begin):.0f} ms")

    def _check(self, headers: Headers, *, public: bool) -> None:
        """Refuse a request by its headers, before its body is read."""
        host = headers.get("host", "").lower()
        if self._token is None and not is_loopback_name(host):
            remedy = "ask for 127.0.0.1 or localhost, or start the server with a token"
            raise RequestError(421, "Host does not name this machine's loopback", remedy=remedy)
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}"):
            remedy = "only this server's own page may ask from a browser"
            raise RequestError(403, "the request comes from a page of another origin", remedy=remedy)
        if public or self._token is None:
            return
        if not _bears(headers.get("authorization", ""), self._token):
            raise RequestError(
                401,
                "the request carries no valid token",
                remedy="send the header 'Authorization: Bearer TOKEN'",
                headers={"WWW-Authenticate": "Bearer"},
            )


def _place_of(error: Exception) -> str:
    """Return an exception's type and where it was raised, not its words: they may hold a file's name."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" in {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
    return f"{type(error).__name__}{place}"


def _bears(authorization: str, token: bytes) -> bool:
    scheme, _, given = authorization.partition(" ")
    return hmac.compare_digest(given.strip().encode(), token) and scheme.lower() == "bearer"


def is_loopback_name(host: str) -> bool:
    """Return whether a Host header, with or without a port, is `localhost` or a loopback address."""
    name, colon, port = host.rpartition(":")
    if not colon or not port.isdecimal():  # without a port, or the inside of an IPv6 address
        name = host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False
