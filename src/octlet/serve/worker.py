"""One thread that owns the engine, and the requests that wait for it."""

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from octlet.serve.refusal import RequestError

P = ParamSpec("P")
T = TypeVar("T")


class Worker:
    """Runs one call at a time, since an engine is not for two threads at once.

    A request takes a place before its body is read, which bounds the memory that uploads can take. All but
    the calls themselves belongs to the event loop's thread.

    Attributes:
        requests: that hold a place.
        answered: when the last call ended, by `time.monotonic`.
        stopping: whether new requests are refused.
    """

    def __init__(self, waiting: int) -> None:
        self._places = 1 + waiting
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="octlet-engine")
        self._seconds = 0.0  # that a call takes, lately
        self.requests = 0
        self.answered = time.monotonic()
        self.stopping = False

    @property
    def waiting(self) -> int:
        """How many requests wait, one being computed."""
        return max(self.requests - 1, 0)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place; RequestError 503 where the server stops, 429 where no place is free."""
        if self.stopping:
            raise RequestError(503, "the server is stopping", remedy="send the request again later")
        if self.requests >= self._places:
            seconds = str(max(math.ceil(self.requests * self._seconds), 1))
            remedy = f"send the request again in {seconds} s"
            raise RequestError(429, "the queue is full", remedy=remedy, headers={"Retry-After": seconds})
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    async def run(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what the call returns, or raise what it raises. Cancelled before its turn, it never runs."""
        return await asyncio.wrap_future(self.submit(call, *args, **kwargs))

    def submit(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Let the call wait for its turn."""
        return self._pool.submit(self._timed, call, *args, **kwargs)

    def _timed(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        begin = time.monotonic()
        try:
            return call(*args, **kwargs)
        finally:
            self.answered = time.monotonic()
            self._seconds += 0.2 * (self.answered - begin - self._seconds)

    def close(self) -> None:
        """Wait for the call that runs, drop those that wait, and let the thread go."""
        self._pool.shutdown(cancel_futures=True)
