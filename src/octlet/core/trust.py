"""How far to rely on a model: its temperature, its prediction sets, and the scans that it knows.

What is fitted (`octlet.evaluate.trust`, on scans that the model has not seen) stands in the model file's
manifest; what is here applies it on the device.
"""

import base64
import binascii
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from octlet.core.errors import ModelFileError
from octlet.core.labels import LABELS
from octlet.core.layout import MEASURES

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """Temperature scaling: logits are divided by `temperature` before the softmax (Guo et al. 2017, ICML).

    Attributes:
        temperature: above 0; 1 changes nothing.
        scans: how many it was fitted on, none of which the model was trained on.
        ece_before, ece_after: expected calibration error on them, 0 to 1.
    """

    temperature: float
    scans: int
    ece_before: float
    ece_after: float


@dataclass(frozen=True)
class Thresholds:
    """Where a class leaves the prediction set, a label is in doubt, and a scan is refused.

    Attributes:
        coverage: of each class's scans, the share whose set shall hold their class (0 to 1).
        lowest: label -> the least calibrated probability with which it is in the set; 0: it always is.
        scans: label -> how many unseen scans that was fitted on.
        doubt: share of scans like those of training whose label may be in doubt (0 to 1).
        confidence: the least calibrated probability of a label that is not.
        refusal: share of scans like those of training that may be refused for their distance (0 to 1).
        distance: the largest distance from the prototypes at which a scan is taken.
    """

    coverage: float
    lowest: dict[str, float]
    scans: dict[str, int]
    doubt: float
    confidence: float
    refusal: float
    distance: float


@dataclass(frozen=True)
class Prototypes:
    """The embeddings of the training scans in short, little-endian float32 in base64.

    Attributes:
        width: D, the embedding's length.
        centres: (classes, D), each class's mean embedding.
        scale: (D,), above 0: the standard deviation about the own class's mean, with a floor.
    """

    width: int
    centres: str
    scale: str

    @classmethod
    def of(cls, centres: Floats, scale: Floats) -> "Prototypes":
        """Pack arrays (classes, D) and (D,)."""
        return cls(len(scale), _packed(centres), _packed(scale))


@dataclass(frozen=True)
class Layout:
    """How the training scans are laid out, and how far from that an image is no B-scan, whatever the network.

    Attributes:
        centre: each of `octlet.core.layout.MEASURES` -> its mean.
        scale: each -> its standard deviation, with a floor (above 0).
        refusal: share of scans like those of training that may be refused for their layout (0 to 1).
        distance: the largest distance (`octlet.core.trust.off_centre`) at which an image is taken.
    """

    centre: dict[str, float]
    scale: dict[str, float]
    refusal: float
    distance: float

    def __post_init__(self) -> None:
        for numbers, least in ((self.centre, -math.inf), (self.scale, 0.0)):
            if tuple(numbers) != MEASURES or not all(least < each < math.inf for each in numbers.values()):
                raise ModelFileError("its layout is not that of this version's measures", remedy=_AGAIN)
        if not 0 < self.distance < math.inf:
            raise ModelFileError("its layout's largest distance is not a number above 0", remedy=_AGAIN)

    def distance_of(self, measured: tuple[float, ...]) -> float:
        """Return how far the layout of an image, values of `MEASURES`, is from that of the training scans."""
        centre, scale = (np.array(list(each.values())) for each in (self.centre, self.scale))
        return float(off_centre(np.array([measured]), centre, scale)[0])


def off_centre(measured: Floats, centre: Floats, scale: Floats) -> Floats:
    """Return how far layouts (n, m) are from a centre (m,), (n,): Euclidean, over scale (m,) and sqrt(m)."""
    found: Floats = np.sqrt((((measured - centre) / scale) ** 2).mean(axis=1))
    return found


def _packed(values: Floats) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode("ascii")


def _unpacked(text: str, shape: tuple[int, ...]) -> Floats:
    try:
        values = np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float64)
    except (binascii.Error, ValueError) as error:
        raise ModelFileError(f"its prototypes are malformed: {error}", remedy=_AGAIN) from error
    if values.size != math.prod(shape) or not np.isfinite(values).all():
        raise ModelFileError(f"its prototypes are not {shape} finite numbers", remedy=_AGAIN)
    return values.reshape(shape)


_AGAIN = "calibrate the model again: octlet calibrate"


@dataclass(frozen=True)
class Trust:
    """The parts together, `layout` where it was fitted; ModelFileError where one is out of its range."""

    calibration: Calibration
    thresholds: Thresholds
    prototypes: Prototypes
    layout: Layout | None = None

    def __post_init__(self) -> None:
        limits, width = self.thresholds, self.prototypes.width
        rules = {
            "its temperature is not above 0": 0 < self.calibration.temperature < math.inf,
            "its coverage is not between 0 and 1": 0 < limits.coverage < 1,
            "its set's thresholds are not 0 to 1 for each label": list(limits.lowest) == list(LABELS)
            and all(0 <= each <= 1 for each in limits.lowest.values()),
            "its least confidence is not 0 to 1": 0 <= limits.confidence <= 1,
            "its largest distance is not a number above 0": 0 < limits.distance < math.inf,
            "its prototypes' width is not 1 to 65536": 1 <= width <= 65536,
        }
        for rule, kept in rules.items():
            if not kept:
                raise ModelFileError(rule, remedy=_AGAIN)
        if not (self._scale > 0).all() or self._centres.shape != (len(LABELS), width):
            raise ModelFileError("its prototypes' scale is not above 0", remedy=_AGAIN)

    @classmethod
    def of(
        cls,
        calibration: Calibration | None,
        thresholds: Thresholds | None,
        prototypes: Prototypes | None,
        layout: Layout | None = None,
    ) -> "Trust | None":
        """Return the parts together, None where there are none; ModelFileError where only some are there."""
        if all(each is None for each in (calibration, thresholds, prototypes, layout)):
            return None
        if calibration is None or thresholds is None or prototypes is None:
            raise ModelFileError("it holds only a part of its calibration", remedy=_AGAIN)
        return cls(calibration, thresholds, prototypes, layout)

    @cached_property
    def _centres(self) -> Floats:
        return _unpacked(self.prototypes.centres, (len(LABELS), self.prototypes.width))

    @cached_property
    def _scale(self) -> Floats:
        return _unpacked(self.prototypes.scale, (self.prototypes.width,))

    def members(self, probabilities: Floats) -> tuple[str, ...]:
        """Return the labels in the prediction set of calibrated probabilities, (4,), in label order."""
        lowest = self.thresholds.lowest
        return tuple(
            label for label, share in zip(LABELS, probabilities, strict=True) if share >= lowest[label]
        )

    def distances(self, embeddings: NDArray[np.float32]) -> Floats:
        """Return how far embeddings (n, D) are from what the model knows, (n,); see `distances`."""
        return distances(embeddings, self._centres, self._scale)

    def refuses(self, distance: float, measured: tuple[float, ...] = ()) -> str | None:
        """Return why an image is refused, as a sentence; None where it is taken.

        Args:
            distance: from what the model knows.
            measured: its layout, values of `octlet.core.layout.MEASURES`; () where it has none.
        """
        far, odd = self.strangeness(distance, measured)
        if max(far, odd) <= 1:
            return None
        what = "laid out like" if odd > far else "like"
        return (
            f"The image is not {what} the B-scans that the model was trained on: "
            f"it lies {max(far, odd):.2f} times as far from them as the furthest that is accepted."
        )

    def strangeness(self, distance: float, measured: tuple[float, ...] = ()) -> tuple[float, float]:
        """Return the two distances of `refuses`, each as a share of its limit; 0 where there is no such."""
        far = distance / self.thresholds.distance
        if self.layout is None or not measured:
            return far, 0.0
        return far, self.layout.distance_of(measured) / self.layout.distance


def distances(embeddings: NDArray[np.float32], centres: Floats, scale: Floats) -> Floats:
    """Return the distance of embeddings (n, D) to the nearest of centres (classes, D), (n,).

    Euclidean, each dimension divided by its `scale` (D,), over sqrt(D): a Mahalanobis distance with a
    diagonal covariance (after Lee et al. 2018, NeurIPS), which a few hundred scans can support.
    """
    offsets = (embeddings[:, None].astype(np.float64) - centres) / scale
    nearest: Floats = np.sqrt((offsets**2).mean(axis=-1)).min(axis=1)
    return nearest
