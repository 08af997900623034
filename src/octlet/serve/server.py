"""From a model file to a server that listens, says so, and stops in good order."""

import asyncio
import ipaddress
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn

from octlet.core.errors import UsageError
from octlet.core.systemd import notify, watchdog_seconds
from octlet.runtime.verify import read_golden
from octlet.serve.app import App
from octlet.serve.predict import finds_label
from octlet.serve.systemd import keep_alive

SHORTEST_TOKEN = 16  # characters
_TOKEN = "python3 -c 'import secrets; print(secrets.token_urlsafe())'"  # noqa: S105 - how to make one


def read_token(file: Path | None, given: str | None) -> str | None:
    """Return the token in a file, or else the one given, or None; UsageError for one that is no use."""
    try:
        token = given if file is None else file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        told = error.strerror if isinstance(error, OSError) else "it is not ASCII text"
        raise UsageError(
            f"the token cannot be read: {told}", path=file, remedy=f"make one: {_TOKEN}"
        ) from error
    if token is None:
        return None
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        rule = f"a token has {SHORTEST_TOKEN} or more printable ASCII characters, and no space"
        raise UsageError(rule, path=file, remedy=f"make one: {_TOKEN}")
    return token


def bind(host: str, port: int, *, token: bool) -> socket.socket:
    """Bind a TCP socket; port 0 takes a free one.

    Raises UsageError: no such address, one that others can reach without a `token`, or a port that is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"'{host}' is no address of this machine", remedy="give --host 127.0.0.1") from error
    if not token and not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
        rule = f"at {host} every machine that reaches this one could send scans, and no token is set"
        raise UsageError(rule, remedy="give --token-file or OCTLET_TOKEN, or leave --host at 127.0.0.1")
    # asyncio turns Nagle's algorithm off only for a socket that knows that it is TCP; with it, a client that
    # asks again on its connection waits 40 ms for the end of each answer
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        rule = f"cannot listen at {host}, port {port}: {error.strerror}"
        raise UsageError(rule, remedy="give another --port or --host") from error
    return bound


def url_of(bound: socket.socket) -> str:
    """Return the URL of a bound TCP socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if bound.family == socket.AF_INET6 else f"http://{host}:{port}"


def serve(app: App, bound: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT, call `ready` once requests are answered, and let the worker go.

    What has been accepted is finished first. SIGINT ends in KeyboardInterrupt.
    """
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        log_level="critical",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=int(app.limits.seconds) + 5,
    )
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # raised again by uvicorn after a good end
    try:
        _Server(config, app, ready).run([bound])
    finally:
        signal.signal(signal.SIGTERM, before)
        app.worker.close()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, app: App, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._app = app
        self._ready = ready
        self._watchdog: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self._ready()
        notify("READY=1")
        if seconds := watchdog_seconds():
            predictor = self._app.predictor
            vector = read_golden(predictor.bundle)[0]
            check = keep_alive(seconds, self._app.worker, lambda: finds_label(predictor, vector))
            self._watchdog = asyncio.create_task(check)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Refuse new requests from the signal on."""
        self._app.worker.stopping = True
        notify("STOPPING=1")
        super().handle_exit(sig, frame)
