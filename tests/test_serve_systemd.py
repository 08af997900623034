"""What systemd is told of a server."""

import asyncio
import contextlib
import itertools
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from asking import PATIENCE, SCAN, Gate, entered, notify_socket

from octlet.core import systemd
from octlet.core.errors import ModelFileError
from octlet.runtime.engine import Outputs
from octlet.runtime.verify import GoldenVector, read_golden
from octlet.serve.predict import finds_label
from octlet.serve.systemd import is_alive, keep_alive
from octlet.serve.worker import Worker


@pytest.fixture
def gate(model_file: Path) -> Gate:
    return Gate(model_file)


@pytest.fixture
def notified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with notify_socket(tmp_path / "notify", monkeypatch) as listener:
        yield listener


def test_notify_by_path_and_by_abstract_name(
    notified: socket.socket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    systemd.notify("READY=1")
    assert notified.recv(99) == b"READY=1"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(PATIENCE)
        listener.bind(f"\0octlet-test-{os.getpid()}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@octlet-test-{os.getpid()}")
        systemd.notify("STOPPING=1")
        assert listener.recv(99) == b"STOPPING=1"
    for nobody in (str(tmp_path / "absent"), "vsock:2:1", ""):
        monkeypatch.setenv("NOTIFY_SOCKET", nobody)
        systemd.notify("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    systemd.notify("READY=1")


def test_a_full_queue_is_not_waited_for(notified: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "WAIT", 0.01)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.connect(notified.getsockname())
        other.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while other.send(b"other"):
                pass
    systemd.notify("READY=1")
    assert notified.recv(99) == b"other"


@pytest.mark.parametrize(
    ("told", "seconds"),
    [({}, None), ({"WATCHDOG_USEC": "0"}, None), ({"WATCHDOG_USEC": "x"}, None),
     ({"WATCHDOG_USEC": "30000000"}, 30),
     ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
     ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "1"}, None)],
)  # fmt: skip
def test_watchdog_seconds(
    monkeypatch: pytest.MonkeyPatch, told: dict[str, str], seconds: float | None
) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert systemd.watchdog_seconds() == seconds


def test_signs_of_life_are_sent_again_and_again(notified: socket.socket) -> None:
    worker = Worker(0)
    checks = itertools.count()

    async def story() -> None:
        alive = asyncio.create_task(keep_alive(0.03, worker, lambda: next(checks) >= 0))
        for _ in range(3):
            assert await asyncio.to_thread(notified.recv, 99) == b"WATCHDOG=1"
        alive.cancel()

    asyncio.run(story())
    worker.close()
    assert next(checks) >= 3


def test_a_worker_that_hangs_or_is_wrong_is_not_alive(gate: Gate) -> None:
    worker = Worker(0)

    def broken() -> bool:
        raise ModelFileError("not finite")

    async def alive(check: Callable[[], bool], seconds: float = PATIENCE) -> bool:
        return await is_alive(worker, check, seconds)

    async def story() -> None:
        assert await alive(lambda: True)
        assert not await alive(lambda: False)
        assert not await alive(broken)
        gate.open.clear()
        stuck = asyncio.create_task(worker.run(gate.run, SCAN))  # never gets past the gate
        await entered(gate)
        assert not await alive(lambda: True, 0.02)
        worker.answered += PATIENCE  # as if another call had been answered meanwhile
        assert await alive(lambda: True, 0.02)
        gate.fault = ModelFileError("the end")
        gate.open.set()
        with pytest.raises(ModelFileError):
            await stuck

    asyncio.run(story())
    worker.close()


def test_the_self_check_knows_the_golden_label(gate: Gate) -> None:
    vector = read_golden(gate.bundle)[0]
    assert finds_label(gate.predictor, vector)
    other = Outputs(-vector.outputs.logits, vector.outputs.cam, vector.outputs.embedding)
    assert not finds_label(gate.predictor, GoldenVector(vector.name, vector.image, vector.pixels, other))
