"""From a request's uploads to its answer: images one by one, volumes B-scan by B-scan, and their eyes."""

import asyncio
from typing import Any

from octlet.clinical.eye import JudgedVolume, eyes_of
from octlet.clinical.read import STACK_SUFFIXES
from octlet.clinical.volume import Volume
from octlet.core.errors import InputError
from octlet.core.prediction import Prediction
from octlet.runtime.predictor import Predictor
from octlet.serve.limits import DRAWN_PIXELS
from octlet.serve.predict import Query, is_volume, predict_gray, predict_scan, read_upload
from octlet.serve.upload import Upload
from octlet.serve.worker import Worker


class Answers:
    """Computes answers, and holds one decoded volume at a time: it may take twenty times its upload."""

    def __init__(self, predictor: Predictor, worker: Worker) -> None:
        self._predictor = predictor
        self._worker = worker
        self._one_volume = asyncio.Lock()

    async def to(self, uploads: list[Upload], query: Query) -> dict[str, Any]:
        """Return predictions, at least one, what is wrong with the others, and the eyes of volumes.

        Eyes are left out where the query asks for some B-scans alone. Raises the first fault where nothing
        can be predicted, and ModelFileError.
        """
        answer = _Answer()
        for upload in uploads:
            try:
                if is_volume(upload):
                    async with self._one_volume:
                        await self._volumes(upload, query, answer)
                else:
                    done = await self._worker.run(predict_scan, self._predictor, upload, query)
                    answer.predictions.append(done)
            except InputError as error:
                answer.errors.append(error)
        if not answer.predictions:
            raise answer.errors[0]
        return {
            "eyes": [] if query.slices else [eye.as_dict() for eye in eyes_of(answer.judged)],
            "predictions": answer.predictions,
            "errors": [error.as_dict() for error in answer.errors],
        }

    async def _volumes(self, upload: Upload, query: Query, answer: "_Answer") -> None:
        volumes = await self._worker.run(read_upload, upload)
        picks = [query.picked(len(volume.scans)) for volume in volumes]
        _check(
            upload,
            query,
            [volume.scans[k].size for volume, ks in zip(volumes, picks, strict=True) for k in ks],
        )
        stack = upload.name.lower().endswith(tuple(STACK_SUFFIXES))
        if stack and len(volumes[0].scans) == 1:  # an image like any other
            _, document = await self._one(volumes[0], 0, upload.name, query)
            answer.predictions.append(document)
            return
        for volume, pick in zip(volumes, picks, strict=True):
            said: list[Prediction] = []
            for k in pick:
                try:
                    prediction, document = await self._one(volume, k, volume.name_of(k), query)
                except InputError as error:
                    answer.errors.append(error)
                else:
                    said.append(prediction)
                    answer.predictions.append(document)
            answer.judged.append(JudgedVolume.of(volume, said, len(volume.scans)))

    async def _one(
        self, volume: Volume, k: int, name: str, query: Query
    ) -> tuple[Prediction, dict[str, Any]]:
        return await self._worker.run(predict_gray, self._predictor, volume.scans[k], name, query)


class _Answer:
    def __init__(self) -> None:
        self.predictions: list[dict[str, Any]] = []
        self.errors: list[InputError] = []
        self.judged: list[JudgedVolume] = []


def _check(upload: Upload, query: Query, pixels: list[int]) -> None:
    """Refuse what would not be answered, or would be answered with more than a client can take."""
    if not pixels:
        rule = f"it has no B-scan of those that are asked for, slices={query.slices}"
        raise InputError(rule, path=upload.name, remedy="ask for others, or for none in particular")
    if query.draws and sum(pixels) > DRAWN_PIXELS:
        rule = f"its B-scans have over {DRAWN_PIXELS // 1_000_000} million pixels, too many for one answer"
        raise InputError(rule, path=upload.name, remedy="ask for some at a time: slices=1-16")
