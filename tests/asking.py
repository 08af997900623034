"""Requests to the server in this process: through Starlette's client, and together through ASGI itself."""

import asyncio
import io
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from easy import band
from jsonschema import Draft202012Validator
from PIL import Image
from starlette.testclient import TestClient

from octlet.core.bundle import open_bundle
from octlet.runtime.engine import Outputs, load_engine
from octlet.runtime.predictor import Predictor
from octlet.serve.app import App, openapi

PATIENCE = 60  # seconds, for what is there at once unless it is broken
PREDICT = "/api/predict"
PNG = {"content-type": "image/png"}
_SCHEMAS = openapi()["components"]


def encoded(pixels: np.ndarray, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


SCAN = encoded(band(1, np.random.default_rng(5)))


def check(name: str, document: Any) -> None:
    """Hold a document against a schema of the API's description."""
    Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": _SCHEMAS}).validate(document)


def error_of(answer: Any) -> dict[str, Any]:
    """Return what a refusal says."""
    check("Error", answer.json())
    return answer.json()["error"]


@dataclass
class Gate:
    """An engine that computes only while its gate is open, and notices two threads in it."""

    model: Path
    name: str = "onnxruntime"
    calls: int = 0
    fault: Exception | None = None
    open: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)
    alone: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.bundle = open_bundle(self.model)
        self.engine = load_engine(self.bundle, threads=1)
        self.open.set()

    def run(self, batch: np.ndarray) -> Outputs:
        assert self.alone.acquire(blocking=False), "an engine is not for two threads at once"
        try:
            self.calls += 1
            self.entered.set()
            assert self.open.wait(PATIENCE)
            if self.fault:
                raise self.fault
            return self.engine.run(batch)
        finally:
            self.alone.release()

    @property
    def predictor(self) -> Predictor:
        return Predictor(self.bundle, self)


def client(app: App, **named: Any) -> TestClient:
    """A client whose requests name the host as a user of this machine does."""
    return TestClient(app, base_url="http://127.0.0.1:8000", **named)


@dataclass(frozen=True)
class Answer:
    """What came back; status 0 and no body where nothing did."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        check("Error", json.loads(self.body))
        return json.loads(self.body)["error"]["code"]


async def ask(
    app: App,
    body: bytes | None,
    *,
    headers: dict[str, str] = PNG,
    gone: asyncio.Event | None = None,
) -> Answer:
    """POST to /api/predict; with body None it never arrives; `gone` is when the client leaves."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": PREDICT,
        "query_string": b"",
        "headers": [(b"host", b"localhost"), *((k.encode(), v.encode()) for k, v in headers.items())],
    }
    chunks = [] if body is None else [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if chunks:
            return chunks.pop()
        await (gone or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if gone is None or not gone.is_set():
            sent.append(message)

    await app(scope, receive, send)  # type: ignore[arg-type]
    if not sent:
        return Answer(0, {}, b"")
    told = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], told, b"".join(message.get("body", b"") for message in sent[1:]))


@contextmanager
def notify_socket(path: Path, patch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Yield what systemd would listen at."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(PATIENCE)
        listener.bind(str(path))
        patch.setenv("NOTIFY_SOCKET", str(path))
        yield listener


async def entered(gate: Gate) -> None:
    """Wait until a call is in the engine."""
    assert await asyncio.to_thread(gate.entered.wait, PATIENCE)


def multipart(parts: Sequence[tuple[str, bytes]], boundary: str = "b0undary") -> tuple[bytes, dict[str, str]]:
    """A form of files (name, bytes), and the header that tells it."""
    body = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="scan"; filename="{name}"\r\n\r\n'.encode()
        + data
        + b"\r\n"
        for name, data in parts
    )
    header = {"content-type": f"multipart/form-data; boundary={boundary}"}
    return body + f"--{boundary}--\r\n".encode(), header
