"""A server at work: its queue, its limits of time, how it starts and stops, and what systemd is told."""

import asyncio
import contextlib
import importlib.util as importlib_util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import tiny
from asking import PATIENCE, PREDICT, SCAN, Gate, ask, client, entered, multipart, notify_socket
from easy import command

from octlet.core.errors import UsageError
from octlet.core.labels import NOTICE
from octlet.serve.app import App
from octlet.serve.server import bind, read_token, serve, url_of

ANYWHERE = "0.0.0.0"  # noqa: S104 - it is refused, or closed at once

Told = Callable[..., tuple[int, dict[str, Any]]]


# The queue ----------------------------------------------------------------------------------------------


def test_requests_that_come_together_are_answered_as_alone(make_app: Callable[..., App], gate: Gate) -> None:
    app = make_app(waiting=7)
    body, header = multipart([("a", SCAN), ("b", SCAN[:99])])

    async def together() -> list[Any]:
        return await asyncio.gather(*(ask(app, body, headers=header) for _ in range(8)))

    answers = asyncio.run(together())
    alone = client(app).post(PREDICT, content=body, headers=header)
    assert [answer.status for answer in answers] == [200] * 8
    assert {answer.body for answer in answers} == {alone.content}
    assert gate.calls == 9


def test_a_full_queue_says_when_to_come_again(make_app: Callable[..., App], gate: Gate) -> None:
    app = make_app(waiting=1)

    async def story() -> None:
        gate.open.clear()
        first = asyncio.create_task(ask(app, SCAN))
        await entered(gate)
        second = asyncio.create_task(ask(app, SCAN))
        await asyncio.sleep(0)  # the second takes its place
        assert app.worker.waiting == 1
        third = await ask(app, None)  # refused before its body is asked for
        assert (third.status, third.code) == (429, "busy")
        assert int(third.headers["retry-after"]) >= 1
        gate.open.set()
        assert [(await first).status, (await second).status] == [200, 200]
        assert (await ask(app, SCAN)).status == 200
        assert app.worker.requests == 0

    asyncio.run(story())


def test_a_request_that_waits_too_long_is_dropped(make_app: Callable[..., App], gate: Gate) -> None:
    app = make_app(seconds=1.0)

    async def story() -> None:
        gate.open.clear()
        first = asyncio.create_task(ask(app, SCAN))
        await entered(gate)
        answers = [await first, await ask(app, SCAN)]
        assert [(answer.status, answer.code) for answer in answers] == [(504, "time-limit")] * 2
        gate.open.set()
        app.worker.submit(lambda: None).result()  # the worker is quicker than the event loop
        assert (await ask(app, SCAN)).status == 200

    asyncio.run(story())
    assert gate.calls == 2  # the first and the last: the one that waited was never computed


def test_a_body_that_does_not_come_is_not_waited_for(make_app: Callable[..., App]) -> None:
    app = make_app(seconds=0.01)
    answer = asyncio.run(ask(app, None))
    assert (answer.status, answer.code) == (408, "slow-upload")
    assert app.worker.requests == 0


@pytest.mark.parametrize("body", [SCAN, None], ids=["while it waits", "while it sends"])
def test_a_client_that_leaves_is_dropped(
    make_app: Callable[..., App], gate: Gate, body: bytes | None
) -> None:
    log: list[str] = []
    app = make_app(log.append)

    async def story() -> None:
        gate.open.clear()
        first, gone = asyncio.create_task(ask(app, SCAN)), asyncio.Event()
        await entered(gate)
        second = asyncio.create_task(ask(app, body, gone=gone))
        await asyncio.sleep(0)
        gone.set()
        assert (await second).status == 0
        gate.open.set()
        assert (await first).status == 200

    asyncio.run(story())
    assert gate.calls == 1
    assert log[0].startswith("POST /api/predict 499 ")
    assert 'path="/api/predict",code="499"} 1' in client(app).get("/metrics").text


def test_a_server_that_stops_takes_nothing_new(make_app: Callable[..., App]) -> None:
    app = make_app()
    app.worker.stopping = True
    answer = asyncio.run(ask(app, None))
    assert (answer.status, answer.code) == (503, "stopping")


def test_scans_of_one_request_do_not_keep_another_waiting(make_app: Callable[..., App], gate: Gate) -> None:
    app = make_app()
    body, header = multipart([("a", SCAN)] * 3)
    order: list[str] = []

    async def named(name: str, *words: Any, **more: Any) -> None:
        await ask(app, *words, **more)
        order.append(name)

    async def story() -> None:
        gate.open.clear()
        many = asyncio.create_task(named("three scans", body, headers=header))
        await entered(gate)
        one = asyncio.create_task(named("one scan", SCAN))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(many, one)

    asyncio.run(story())
    assert order == ["one scan", "three scans"]


# Starting and stopping ----------------------------------------------------------------------------------


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """Run `octlet serve`, which must refuse; return its exit code and error."""

    def serve(*args: object) -> None:
        raise AssertionError("it serves")

    def run(*words: object) -> tuple[int, dict[str, Any]]:
        code, out, err = command("serve", "--port", 0, "--json", *words)
        assert "Traceback" not in err
        return code, json.loads(out)["error"]

    monkeypatch.setattr("octlet.serve.server.serve", serve)
    return run


def test_commands_that_are_refused(
    told: Told, model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, error = told("-m", model_file, "--host", ANYWHERE)
    assert code == 2
    assert "no token" in error["message"]
    assert "--token-file" in error["remedy"]
    assert told("-m", model_file, "--host", "no such host")[0] == 2
    assert told("-m", model_file, "--host", "192.0.2.1", "--token-file", tmp_path / "absent")[0] == 2
    assert told("-m", tmp_path / "absent")[0] == 4
    for bad in ("", "short", "with a space inside it", "ümlaut" * 5, "x" * 20 + "\n" + "y" * 20):
        (tmp_path / "token").write_text(bad)
        assert told("-m", model_file, "--token-file", tmp_path / "token")[0] == 2
    monkeypatch.setenv("OCTLET_TOKEN", "")  # a secret that went missing opens no door
    assert told("-m", model_file)[0] == 2


def test_a_missing_extra_is_named(told: Told, model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib_util.find_spec
    monkeypatch.setattr(importlib_util, "find_spec", lambda name: None if name == "uvicorn" else find(name))
    code, error = told("-m", model_file)
    assert (code, error["remedy"]) == (2, 'pip install "octlet[serve]"')


def test_a_model_that_computes_something_else_is_not_served(
    told: Told, model_file: Path, tmp_path: Path
) -> None:
    path = tiny.write_lying(model_file, tmp_path / "m.octlet")
    code, error = told("-m", path)
    assert (code, error["code"], error["file"]) == (5, "gate", str(path))


def test_tokens(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("  0123456789abcdef\n")
    assert read_token(tmp_path / "token", "another") == "0123456789abcdef"
    assert read_token(None, "fedcba9876543210") == "fedcba9876543210"
    assert read_token(None, None) is None


def test_binding() -> None:
    with bind("localhost", 0, token=False) as bound:
        assert bound.proto == socket.IPPROTO_TCP  # or asyncio leaves Nagle's algorithm on
        port = bound.getsockname()[1]
        assert url_of(bound).endswith(f":{port}")
        bound.listen()
        with pytest.raises(UsageError, match="cannot listen at localhost"):
            bind("localhost", port, token=False)
    with bind(ANYWHERE, 0, token=True) as bound:
        assert bound.getsockname()[0] == ANYWHERE
    for host in (ANYWHERE, "::", ""):
        with pytest.raises(UsageError):
            bind(host, 0, token=False).close()


def test_sigterm_finishes_what_was_accepted(make_app: Callable[..., App], gate: Gate) -> None:
    """The real server in this thread, its client in others."""
    app, answers = make_app(), list[int]()
    bound = bind("127.0.0.1", 0, token=False)
    url = url_of(bound)

    def post() -> None:
        answers.append(httpx2.post(url + PREDICT, files={"scan": SCAN}, timeout=PATIENCE).status_code)

    def story() -> None:
        posting = [threading.Thread(target=post) for _ in range(2)]  # one is computed, one waits
        posting[0].start()
        assert gate.entered.wait(PATIENCE)
        posting[1].start()
        while app.worker.waiting < 1:
            assert httpx2.get(url + "/api/health").status_code == 200
        os.kill(os.getpid(), signal.SIGTERM)
        with contextlib.suppress(httpx2.HTTPError):  # refused, reset or 503: never taken
            while httpx2.get(url + "/api/health").status_code == 200:
                pass
        gate.open.set()
        for thread in posting:
            thread.join(PATIENCE)

    gate.open.clear()
    driver = threading.Thread(target=story)
    serve(app, bound, driver.start)
    driver.join(PATIENCE)
    assert answers == [200, 200]


def test_the_command(model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of its own, as systemd runs it: ready, alive, asked, stopped; and torch is never imported."""
    script = """
import sys
from octlet.cli.main import main
code = main(sys.argv[1:])
assert not {"torch", "onnx", "scipy", "sklearn", "matplotlib"} & set(sys.modules)
sys.exit(code)
"""
    with notify_socket(tmp_path / "notify", monkeypatch) as notified:
        (tmp_path / "token").write_text("0123456789abcdef\n")
        words = ["serve", "-m", model_file, "--port", "0", "--token-file", tmp_path / "token", "--json"]
        process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, words)],
            env=os.environ | {"WATCHDOG_USEC": "200000"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert notified.recv(99) == b"READY=1"
            assert notified.recv(99) == b"WATCHDOG=1"
            assert process.stdout is not None
            document = ""
            while not document.endswith("\n}\n"):
                document += process.stdout.readline()
            told = json.loads(document)
            assert (told["notice"], told["verified"], told["token"]) == (NOTICE, True, True)
            header = {"Authorization": "Bearer 0123456789abcdef"}
            answer = httpx2.post(told["url"] + PREDICT, files={"x": ("Mueller.png", SCAN)}, headers=header)
            assert answer.json()["predictions"][0]["file"] == "Mueller.png"
            assert httpx2.get(told["url"] + "/api/health").status_code == 401
            process.send_signal(signal.SIGTERM)
            while (said := notified.recv(99)) == b"WATCHDOG=1":
                pass
            assert said == b"STOPPING=1"
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
        assert (process.returncode, out) == (0, "")
        first, second, *lines, last = err.splitlines()
        assert (first, last) == (f"verifying {model_file}", "stopped")
        assert second.startswith(
            'next: curl -H "Authorization: Bearer $OCTLET_TOKEN" -F scan=@SCAN http://127.0.0.1:'
        )
        assert [line.rsplit(" ", 2)[0] for line in lines] == ["POST /api/predict 200", "GET /api/health 401"]
