"""The application: the API's addresses, and how each is answered; and the page."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Coroutine
from importlib.resources import files
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from octlet import __version__
from octlet.core.errors import OctletError, UsageError
from octlet.core.labels import LABELS, NOTICE
from octlet.core.settings import from_mapping
from octlet.runtime.engine import ENGINES
from octlet.runtime.machine import Sources, read_condition
from octlet.runtime.predictor import Predictor
from octlet.serve.answer import Answers
from octlet.serve.guard import GONE, Guard
from octlet.serve.limits import FILES, Limits
from octlet.serve.metrics import CONTENT_TYPE, Metrics
from octlet.serve.page import page_routes
from octlet.serve.predict import Query
from octlet.serve.refusal import RequestError, error_response
from octlet.serve.upload import read_uploads
from octlet.serve.worker import Worker

T = TypeVar("T")


class App:
    """An ASGI application that serves one model file, whose golden vectors have been replayed.

    Attributes:
        predictor: the model file in its engine; called by the worker alone.
        worker: what computes.
        limits: of each request.
        log: takes one line of text, in which nothing of a scan or its name stands.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        limits: Limits | None = None,
        token: str | None = None,
        log: Callable[[str], None],
    ) -> None:
        self.predictor = predictor
        self.limits = limits or Limits()
        self.worker = Worker(self.limits.waiting)
        self.log = log
        self._answers = Answers(predictor, self.worker, self.limits.batch)
        self._metrics = Metrics()
        self._began = time.monotonic()
        self._openapi = openapi()
        routes = [
            Route("/api/predict", self._predict, methods=["POST"]),
            Route("/api/health", self._health),
            Route("/api/openapi.json", self._describe),
            Route("/metrics", self._expose),
        ]
        handlers: Any = {
            OctletError: _told,
            HTTPException: _unknown,
            ClientDisconnect: _gone,
            Exception: _failed,
        }
        page = page_routes()
        app = Starlette(routes=[*routes, *page], exception_handlers=handlers)
        app.router.redirect_slashes = False  # one address for each thing
        paths = frozenset(route.path for route in (*routes, *page))
        public = frozenset(route.path for route in page)
        self._guard = Guard(app, token=token, paths=paths, public=public, metrics=self._metrics, log=log)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as ASGI 3 has it."""
        await self._guard(scope, receive, send)

    async def _predict(self, request: Request) -> Response:
        loop = asyncio.get_running_loop()
        begin, query = loop.time(), read_query(request)
        until = begin + self.limits.seconds
        with self.worker.place():
            late = RequestError(408, "the body did not arrive in time", remedy="send fewer or smaller images")
            uploads = await _in_time(read_uploads(request, self.limits.upload), until, late)
            late = RequestError(504, f"not done within {self.limits.seconds:g} s", remedy="send fewer images")
            work = _unless_gone(request.receive, self._answers.to(uploads, query))
            answer = await _in_time(work, until, late)
        self._metrics.predicted((each["label"] for each in answer["predictions"]), loop.time() - begin)
        return JSONResponse({"notice": NOTICE, "model": self.predictor.identity} | answer)

    async def _health(self, _: Request) -> Response:
        stopping = self.worker.stopping
        document = {
            "status": "stopping" if stopping else "ok",
            "notice": NOTICE,
            "version": __version__,
            "model": self.predictor.identity,
            "engine_version": ENGINES[self.predictor.engine.name].version,
            "verified": True,  # the server does not start otherwise
            "uptime_seconds": round(time.monotonic() - self._began, 3),
            "waiting": self.worker.waiting,
            "labels": LABELS,
            "limits": {
                "upload_bytes": self.limits.upload,
                "files": FILES,
                "seconds": self.limits.seconds,
                "waiting": self.limits.waiting,
                "batch": self.limits.batch,
            },
        }
        return JSONResponse(document, 503 if stopping else 200)

    async def _describe(self, _: Request) -> Response:
        return JSONResponse(self._openapi)

    async def _expose(self, _: Request) -> Response:
        identity = self.predictor.identity
        info = {key: str(identity[key]) for key in ("name", "sha256", "engine")} | {"version": __version__}
        celsius = read_condition(
            Sources(run=lambda words: None)
        ).celsius  # no vcgencmd: files are read at once
        gauges = {
            "octlet_uptime_seconds": ("Seconds since the start.", time.monotonic() - self._began),
            "octlet_requests_waiting": ("Requests that wait.", self.worker.waiting),
            "octlet_requests_waiting_limit": ("Requests that may wait.", self.limits.waiting),
            "octlet_cpu_celsius": ("Temperature of the CPU.", celsius),
        }
        return Response(self._metrics.text(info, gauges), media_type=CONTENT_TYPE)


def read_query(request: Request) -> Query:
    """Read what stands behind the path's question mark; UsageError for an unknown key or value, or two."""
    pairs = request.query_params.multi_items()
    if len(pairs) > len(dict(pairs)):
        raise UsageError("a key stands twice in the query", remedy="give it once")
    return from_mapping(Query, dict(pairs), "query")


async def _told(_: Request, error: Exception) -> Response:
    assert isinstance(error, OctletError)  # noqa: S101 - so it is registered
    return error_response(error)


async def _unknown(_: Request, error: Exception) -> Response:
    """Answer what the router found: 404, or 405 with the methods that there are."""
    assert isinstance(error, HTTPException)  # noqa: S101 - so it is registered
    rule = "there is nothing at this address" if error.status_code == 404 else "this method is not known here"
    return error_response(
        RequestError(error.status_code, rule, remedy="see /api/openapi.json", headers=error.headers)
    )


async def _gone(_: Request, error: Exception) -> Response:
    """Answer nobody: the status is for the log and the metrics."""
    return Response(status_code=GONE)


async def _failed(_: Request, error: Exception) -> Response:
    """Answer a fault of our own; the guard tells it to the log."""
    return error_response(OctletError("the server failed", remedy="report it with the line in its log"))


async def _in_time(work: Awaitable[T], until: float, late: RequestError) -> T:
    """Await `work` until the event loop's clock says `until`, then cancel it and raise `late`."""
    try:
        async with asyncio.timeout_at(until):
            return await work
    except TimeoutError as error:
        raise late from error


async def _unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Await `work`; where the client leaves before, cancel it and raise ClientDisconnect."""

    async def wait() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(wait())
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        # until it has let go of its scans, the worker could begin with them
        await asyncio.gather(task, gone, return_exceptions=True)


def openapi() -> dict[str, Any]:
    """Return the API's description, OpenAPI 3.1, of this version."""
    text = (files("octlet.serve") / "static" / "openapi.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    document["info"]["version"] = __version__
    return document
