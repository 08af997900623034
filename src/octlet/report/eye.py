"""From judged B-scans to what a page says of one eye; the pictures of the most pressing ones are kept."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octlet.clinical.eye import EyePrediction, most_urgent
from octlet.core.image import Gray, Prepared
from octlet.core.prediction import Prediction
from octlet.runtime.predictor import Box, Predictor

SHOWN = 6  # B-scans on a page


@dataclass(frozen=True)
class Seen:
    """A B-scan with what the model said of it.

    Attributes:
        prediction: of the scan.
        gray: uint8 (H, W).
        cam: float32 (4, h, w), the class activation maps.
        box: (left, top, right, bottom) of the part of the scan that the maps cover.
    """

    prediction: Prediction
    gray: Gray
    cam: NDArray[np.float32]
    box: Box


@dataclass(frozen=True)
class Eye:
    """What one page is about.

    Attributes:
        name: of the file, the folder or the volume, as given.
        seen: the most pressing B-scans, at most `SHOWN` and at least one; the first is shown large.
        whole: what all B-scans say together; None for a single image.
    """

    name: str
    seen: tuple[Seen, ...]
    whole: EyePrediction | None = None

    @property
    def first(self) -> Prediction:
        """The prediction of the most pressing scan."""
        return self.seen[0].prediction

    @property
    def urgency(self) -> str:
        """How soon, of the whole eye."""
        return self.first.urgency if self.whole is None else self.whole.urgency

    @property
    def abstain(self) -> str | None:
        """Why not to rely on the label, of the whole eye."""
        return self.first.abstain if self.whole is None else self.whole.abstain

    @property
    def label(self) -> str:
        """The class, of the whole eye."""
        return self.first.label if self.whole is None else self.whole.label

    @property
    def probabilities(self) -> dict[str, float]:
        """Label -> probability, of the whole eye."""
        return self.first.probabilities if self.whole is None else self.whole.probabilities

    @property
    def explanation(self) -> str:
        """One or two sentences, of the whole eye."""
        return self.first.explanation if self.whole is None else self.whole.explanation


def look(predictor: Predictor, gray: Gray, prepared: Prepared, name: str) -> Seen:
    """Judge one B-scan that `Predictor.prepare` has prepared; raises what `Predictor.score` raises."""
    scores = predictor.score([prepared])
    return Seen(predictor.judge(gray, name, scores), gray, scores.cam[0], scores.boxes[0])


def pressing(seen: Sequence[Seen], more: Sequence[Seen] = ()) -> tuple[Seen, ...]:
    """Return the most pressing of these, at most `SHOWN`, as `octlet.clinical.eye` orders them."""
    whole = {id(each.prediction): each for each in (*seen, *more)}  # names may stand twice
    ordered = most_urgent(each.prediction for each in whole.values())
    return tuple(whole[id(each)] for each in ordered[:SHOWN])
