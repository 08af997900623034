"""What systemd is told: ready, stopping, alive. Without NOTIFY_SOCKET nothing is said.

The protocol is sd_notify(3)'s: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable

from octlet.core.errors import OctletError
from octlet.serve.worker import Worker

WAIT = 1.0  # seconds


def notify(state: str) -> None:
    """Send "READY=1" or the like; what cannot be delivered is dropped, as sd_notify(3) recommends."""
    place = os.environ.get("NOTIFY_SOCKET", "")
    if not place.startswith(("/", "@")):
        return
    address = "\0" + place[1:] if place.startswith("@") else place  # "@": Linux's abstract names
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(WAIT)  # systemd's queue may be full, and the event loop must not stand still
        sender.connect(address)
        sender.send(state.encode())


def watchdog_seconds() -> float | None:
    """Return within which time systemd wants a sign of life of this process; None where it wants none."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    told = os.environ.get("WATCHDOG_USEC", "")
    return int(told) / 1e6 if told.isdecimal() and int(told) else None


async def keep_alive(seconds: float, worker: Worker, check: Callable[[], bool]) -> None:
    """Send "WATCHDOG=1" at least every `seconds`, as long as the worker is alive; never returns."""
    while True:
        begin = time.monotonic()
        if await is_alive(worker, check, seconds / 3):
            notify("WATCHDOG=1")
        await asyncio.sleep(begin + seconds / 3 - time.monotonic())


async def is_alive(worker: Worker, check: Callable[[], bool], seconds: float) -> bool:
    """Return whether the worker passes a self-check within so many seconds.

    A self-check that does not get its turn is no fault as long as others do: then any answer counts.
    """
    begin = time.monotonic()
    try:
        async with asyncio.timeout(seconds):
            return await worker.run(check)
    except TimeoutError:
        return worker.answered >= begin
    except OctletError:
        return False
