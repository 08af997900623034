"""From gray scans to probabilities with a model file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octlet.core.bundle import Bundle, open_network
from octlet.core.errors import InputError, ModelFileError
from octlet.core.files import sha256_of
from octlet.core.image import Gray, Prepared, normalise, prepare
from octlet.core.prediction import Prediction
from octlet.core.quality import Quality, measure
from octlet.runtime.background import BackgroundEngine
from octlet.runtime.engine import ENGINES, Engine, Outputs, loader

Box = tuple[int, int, int, int]


class Grid(NamedTuple):
    """Where the cells of a network's map lie in its input.

    All that strides in `octlet.models.resnet` halves the side and has an odd kernel. Padded by half of it, a
    cell is centred on the pixel that it is counted from; padded as TensorFlow's SAME does, which lays the odd
    row behind, each halving of an even side moves it on by one pixel of that side.

    Attributes:
        size: S, the side of the network's square input in pixels.
        same: padded as SAME does.
    """

    size: int
    same: bool = False

    def span(self, cells: int) -> tuple[float, float]:
        """Return where the input's edges lie along a map of so many cells a side, cell i being i to i + 1."""
        side, stride, first = self.size, 1, 0  # pixel `first` is the centre of cell 0
        while side > cells:
            if self.same and side % 2 == 0:
                first += stride
            side, stride = (side + 1) // 2, 2 * stride
        begin = 0.5 - (0.5 + first) / stride
        return begin, begin + self.size / stride


@dataclass(frozen=True)
class Scores:
    """What a model says of n scans.

    Attributes:
        logits: float32 (n, 4), in label order; of both looks where a scan was looked at twice.
        probabilities: float64 (n, 4), rows summing to 1; at the model file's temperature, where it has one.
        distances: float64 (n,), from what the model knows; None where the model file holds no prototypes.
        cam: float32 (n, 4, h, w), the class activation maps; their means are the logits of the first look.
        boxes: (left, top, right, bottom) of the part of each scan that its maps cover, in scan pixels.
    """

    logits: NDArray[np.float32]
    probabilities: NDArray[np.float64]
    distances: NDArray[np.float64] | None
    cam: NDArray[np.float32]
    boxes: tuple[Box, ...]


class Predictor:
    """A model file, loaded into an engine.

    Attributes:
        bundle: the verified model file.
        engine: what computes its network.
        trust: how far to rely on it; None where the file was not calibrated.
    """

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self.bundle = bundle
        self.engine = engine
        self.trust = bundle.manifest.trust

    @classmethod
    def open(
        cls, path: str | Path, *, engine: str = "onnxruntime", threads: int | None = None
    ) -> "Predictor":
        """Open a model file; raises what `open_bundle` and `load_engine` raise."""
        bundle, load = _opened(path, engine, threads)
        return cls(bundle, load())

    @classmethod
    def opening(
        cls, path: str | Path, *, engine: str = "onnxruntime", threads: int | None = None
    ) -> "Predictor":
        """Open a model file, and load its engine while the first scan is read.

        Raises what `open_bundle` and `loader` raise. That the engine cannot compute the network comes out at
        the first computation.
        """
        bundle, load = _opened(path, engine, threads)
        return cls(bundle, BackgroundEngine(engine, load))

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Name, SHA-256 of the file, schema, the versions that wrote it, the sets' coverage, the engine."""
        manifest = self.bundle.manifest
        return {
            "name": manifest.name,
            "sha256": sha256_of(self.bundle.path),
            "schema": manifest.schema,
            "versions": manifest.versions,
            "coverage": None if self.trust is None else self.trust.thresholds.coverage,
            "engine": self.engine.name,
        }

    @property
    def size(self) -> int:
        """S, the side of the network's square input in pixels."""
        return self.bundle.manifest.preprocessing.size

    @property
    def grid(self) -> Grid:
        """Where the cells of its maps lie."""
        return Grid(self.size, same=self.bundle.manifest.network.get("family") == "lite")

    def prepare(self, gray: Gray, name: str = "") -> Prepared:
        """Bring a scan, uint8 (H, W), into the network's frame; InputError, naming it, if it is all white."""
        try:
            return prepare(gray, self.size)
        except InputError as error:
            raise InputError(error.rule, path=name or None, remedy=error.remedy) from error

    def compute(self, prepared: Sequence[Prepared]) -> Outputs:
        """Compute prepared scans, at least one, in one batch.

        Raises ModelFileError where the network cannot be computed or gives numbers that are not finite.
        """
        try:
            return self.engine.run(normalise(np.stack([each.pixels for each in prepared])))
        except ModelFileError as error:
            raise ModelFileError(error.rule, path=self.bundle.path, remedy=error.remedy) from error

    def look(self, prepared: Sequence[Prepared]) -> Outputs:
        """Compute prepared scans, at least one, and once more, mirrored, those that leave doubt.

        Which do is `second_look` of the manifest. Their logits are the mean of both looks; an eye may be a
        left or a right one, so both answer the same question. Maps and embedding are those of the scan as it
        is: cells of a mirrored map lie elsewhere. Raises as `compute`.
        """
        first, limit = self.compute(prepared), self.bundle.manifest.second_look
        doubtful = np.flatnonzero(in_doubt(first.logits, limit or 0.0))
        if not len(doubtful):
            return first
        mirrored = [
            replace(prepared[k], pixels=np.ascontiguousarray(prepared[k].pixels[:, ::-1]))
            for k in doubtful.tolist()
        ]
        logits = first.logits.copy()
        logits[doubtful] = (logits[doubtful] + self.compute(mirrored).logits) / 2
        return replace(first, logits=logits)

    def score(self, prepared: Sequence[Prepared]) -> Scores:
        """Look at prepared scans, at least one, in one batch; raises as `look` and `weigh`."""
        return self.weigh(self.look(prepared), tuple(each.box for each in prepared))

    def weigh(self, outputs: Outputs, boxes: tuple[Box, ...]) -> Scores:
        """Turn a network's outputs into scores.

        Raises ModelFileError where the prototypes are of another width than the embedding.
        """
        if self.trust is None:
            return Scores(outputs.logits, softmax(outputs.logits), None, outputs.cam, boxes)
        if outputs.embedding.shape[1] != self.trust.prototypes.width:
            rule = f"its embedding has {outputs.embedding.shape[1]} values, its prototypes another number"
            raise ModelFileError(rule, path=self.bundle.path, remedy="calibrate the model again")
        probabilities = softmax(outputs.logits, self.trust.calibration.temperature)
        distances = self.trust.distances(outputs.embedding)
        return Scores(outputs.logits, probabilities, distances, outputs.cam, boxes)

    def judge(
        self, gray: Gray, name: str, scores: Scores, row: int = 0, *, quality: Quality | None = None
    ) -> Prediction:
        """Say what the scores in a row, those of this scan, amount to: a class, a doubt or a refusal.

        A scan that cannot be judged by anyone is refused whatever the model is; one that the model does not
        know only where the model file holds prototypes. `quality`: the scan's, if measured before.
        """
        probabilities, quality = scores.probabilities[row], quality or measure(gray)
        if self.trust is None or scores.distances is None:
            return Prediction.of(name, probabilities, quality)
        return Prediction.of(
            name,
            probabilities,
            quality,
            members=self.trust.members(probabilities),
            coverage=self.trust.thresholds.coverage,
            confidence=self.trust.thresholds.confidence,
            strange=self.trust.refuses(float(scores.distances[row]), quality.layout),
        )

    def run(self, grays: Sequence[Gray]) -> Scores:
        """Compute gray scans, uint8 (H, W), at least one, in one batch; raises as `prepare` and `score`."""
        return self.score([self.prepare(gray) for gray in grays])

    def predict(self, grays: Sequence[Gray], names: Sequence[str]) -> list[Prediction]:
        """Classify gray scans, uint8 (H, W) each, in one batch; `names` are told in errors and results."""
        if not grays:
            return []
        scores = self.score([self.prepare(gray, name) for gray, name in zip(grays, names, strict=True)])
        return [
            self.judge(gray, name, scores, row)
            for row, (gray, name) in enumerate(zip(grays, names, strict=True))
        ]


def _opened(path: str | Path, engine: str, threads: int | None) -> tuple[Bundle, Callable[[], Engine]]:
    bundle, network = open_network(path, ENGINES[engine].reads if engine in ENGINES else None)
    return bundle, loader(bundle, engine, threads, network=network)


def in_doubt(logits: NDArray[np.floating], limit: float) -> NDArray[np.bool_]:
    """Tell, (n,), to whose classes logits (n, 4) give no probability of `limit` or more."""
    return np.asarray(softmax(logits).max(axis=1) < limit)


def softmax(logits: NDArray[np.floating[Any]], temperature: float = 1.0) -> NDArray[np.float64]:
    """Return the softmax of logits / temperature, (n, k), along their rows, computed in float64."""
    wide = logits.astype(np.float64) / temperature
    powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares
