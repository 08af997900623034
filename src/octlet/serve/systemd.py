"""Signs of life for systemd's watchdog, sent while the engine's thread answers."""

import asyncio
import time
from collections.abc import Callable

from octlet.core.errors import OctletError
from octlet.core.systemd import notify
from octlet.serve.worker import Worker


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
