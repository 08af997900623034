"""Scans that wait for the network, of whatever request: one turn of the worker computes several at once."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from octlet.core.image import Gray, Prepared
from octlet.core.prediction import Prediction
from octlet.runtime.predictor import Predictor, Scores
from octlet.serve.predict import Query, check_drawn, document_of
from octlet.serve.worker import Worker

FULL = 4  # scans
Named = tuple[str, Callable[[], Gray]]  # a scan's name, and what reads it in the worker's thread
Told = tuple[Prediction, dict[str, Any]]


def worth(engine: str, threads: int) -> int:
    """Return how many scans to compute at once: several only where that was measured to be faster.

    ONNX Runtime spreads a batch over its threads better than a scan; the other engines compute a batch scan
    by scan (docs/serve.md).
    """
    return FULL if engine == "onnxruntime" and threads > 1 else 1


@dataclass(frozen=True)
class _Waiting:
    name: str
    read: Callable[[], Gray]
    query: Query
    told: Future[Told] = field(default_factory=Future)


class Scans:
    """Predicts scans, up to `most` of those that wait in one batch.

    Every scan asks the worker for a turn, so that they take turns with its other calls; whoever's turn comes
    first takes along those that wait by then, and their own turns find nothing left to do.

    Attributes:
        most: scans of a batch.
    """

    def __init__(self, predictor: Predictor, worker: Worker, most: int = 1) -> None:
        self.most = most
        self._predictor = predictor
        self._worker = worker
        self._waiting: deque[_Waiting] = deque()

    async def predict(self, named: Sequence[Named], query: Query) -> list[Told | BaseException]:
        """Return for each scan its prediction, also as a document with what the query asks for, or its fault.

        A fault is an InputError that names the scan, what its reading raised, or a ModelFileError where the
        network cannot be computed. Scans that are cancelled before their turn are never computed.
        """
        scans = [_Waiting(name, read, query) for name, read in named]
        self._waiting += scans
        turns = [self._worker.submit(self._turn) for _ in scans]
        for scan, turn in zip(scans, turns, strict=True):
            turn.add_done_callback(partial(_drop, scan))
        try:
            told = (asyncio.wrap_future(scan.told) for scan in scans)
            return await asyncio.gather(*told, return_exceptions=True)
        finally:
            for turn in turns:  # those that are left find nothing to do
                turn.cancel()

    def _turn(self) -> None:
        batch: list[_Waiting] = []
        while self._waiting and len(batch) < self.most:
            scan = self._waiting.popleft()
            if scan.told.set_running_or_notify_cancel():
                batch.append(scan)
        self._answer(batch)

    def _answer(self, batch: list[_Waiting]) -> None:
        ready = list(self._prepared(batch))
        if not ready:
            return
        with _faults_to(*(scan.told for scan, _, _ in ready)):
            self._judge(ready, self._predictor.score([prepared for _, _, prepared in ready]))

    def _judge(self, ready: list[tuple[_Waiting, Gray, Prepared]], scores: Scores) -> None:
        for row, (scan, gray, _) in enumerate(ready):
            with _faults_to(scan.told):
                prediction = self._predictor.judge(gray, scan.name, scores, row)
                document = document_of(prediction, gray, scores, row, self._predictor.grid, scan.query)
                scan.told.set_result((prediction, document))

    def _prepared(self, batch: list[_Waiting]) -> Iterator[tuple[_Waiting, Gray, Prepared]]:
        for scan in batch:
            with _faults_to(scan.told):
                gray = scan.read()
                check_drawn(gray, scan.name, scan.query)
                yield scan, gray, self._predictor.prepare(gray, scan.name)


def _drop(scan: _Waiting, turn: Future[None]) -> None:
    """Let go of a scan whose turn was cancelled, as a worker does that closes, unless it is computed."""
    if turn.cancelled():
        scan.told.cancel()


@contextmanager
def _faults_to(*told: Future[Told]) -> Iterator[None]:
    """Raise a fault where these scans are waited for, and not in the worker."""
    try:
        yield
    except Exception as fault:  # noqa: BLE001 - see above
        for each in told:
            each.set_exception(fault)
