"""From a request's uploads to its answer: images, volumes B-scan by B-scan, and their eyes."""

import asyncio
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import Any

from octlet.clinical.eye import JudgedVolume, eyes_of
from octlet.clinical.volume import Volume
from octlet.core.errors import InputError
from octlet.core.image import Gray, decode
from octlet.core.prediction import Prediction
from octlet.runtime.predictor import Predictor
from octlet.serve.batch import Named, Scans, Told
from octlet.serve.limits import DRAWN_PIXELS
from octlet.serve.predict import Query, is_volume, read_upload
from octlet.serve.upload import Upload
from octlet.serve.worker import Worker


class Answers:
    """Computes answers, and holds one decoded volume at a time: it may take twenty times its upload.

    A request lets as many of its scans wait as a batch holds, so that one with many leaves room for others.
    """

    def __init__(self, predictor: Predictor, worker: Worker, batch: int = 1) -> None:
        self._scans = Scans(predictor, worker, batch)
        self._worker = worker
        self._one_volume = asyncio.Lock()

    async def to(self, uploads: list[Upload], query: Query) -> dict[str, Any]:
        """Return predictions, at least one, what is wrong with the others, and the eyes of volumes.

        Eyes are left out where the query asks for some B-scans alone. Raises the first fault where nothing
        can be predicted, and ModelFileError.
        """
        answer = _Answer()
        for volumes, group in groupby(uploads, is_volume):
            if volumes:
                for upload in group:
                    await self._clinical(upload, query, answer)
            else:
                images = [(upload.name, partial(decode, upload.data, upload.name)) for upload in group]
                await self._predict(images, query, answer)
        if not answer.predictions:
            raise answer.errors[0]
        return {
            "eyes": [] if query.slices else [eye.as_dict() for eye in eyes_of(answer.judged)],
            "predictions": answer.predictions,
            "errors": [error.as_dict() for error in answer.errors],
        }

    async def _clinical(self, upload: Upload, query: Query, answer: "_Answer") -> None:
        async with self._one_volume:
            try:
                await self._volumes(upload, query, answer)
            except InputError as error:
                answer.errors.append(error)

    async def _volumes(self, upload: Upload, query: Query, answer: "_Answer") -> None:
        volumes = await self._worker.run(read_upload, upload)
        picks = [query.picked(len(volume.scans)) for volume in volumes]
        _check(
            upload,
            query,
            [volume.scans[k].size for volume, ks in zip(volumes, picks, strict=True) for k in ks],
        )
        if volumes[0].picture:
            await self._predict([(upload.name, partial(_scan_of, volumes[0], 0))], query, answer)
            return
        for volume, pick in zip(volumes, picks, strict=True):
            scans = [(volume.name_of(k), partial(_scan_of, volume, k)) for k in pick]
            said = await self._predict(scans, query, answer)
            answer.judged.append(JudgedVolume.of(volume, said, len(volume.scans)))

    async def _predict(self, scans: Sequence[Named], query: Query, answer: "_Answer") -> list[Prediction]:
        """Predict scans, put into the answer what came of each, and return the predictions."""
        said: list[Prediction | None] = []
        for start in range(0, len(scans), self._scans.most):
            batch = scans[start : start + self._scans.most]
            said += map(answer.take, await self._scans.predict(batch, query))
        return [each for each in said if each]


def _scan_of(volume: Volume, k: int) -> Gray:
    return volume.scans[k]


class _Answer:
    def __init__(self) -> None:
        self.predictions: list[dict[str, Any]] = []
        self.errors: list[InputError] = []
        self.judged: list[JudgedVolume] = []

    def take(self, told: Told | BaseException) -> Prediction | None:
        """Note a prediction, or what is wrong with its scan; raise any other fault."""
        if isinstance(told, InputError):
            self.errors.append(told)
            return None
        if isinstance(told, BaseException):
            raise told
        prediction, document = told
        self.predictions.append(document)
        return prediction


def _check(upload: Upload, query: Query, pixels: list[int]) -> None:
    """Refuse what would not be answered, or would be answered with more than a client can take."""
    if not pixels:
        rule = f"it has no B-scan of those that are asked for, slices={query.slices}"
        raise InputError(rule, path=upload.name, remedy="ask for others, or for none in particular")
    if query.draws and sum(pixels) > DRAWN_PIXELS:
        rule = f"its B-scans have over {DRAWN_PIXELS // 1_000_000} million pixels, too many for one answer"
        raise InputError(rule, path=upload.name, remedy="ask for some at a time: slices=1-16")
