"""What a model says of one scan."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octlet.core.labels import LABELS, NOTICE, URGENCY

DECIMALS = 6  # engines and batch sizes differ beyond

CSV_COLUMNS = ("file", "label", "urgency", *(f"p_{label}" for label in LABELS), "notice")


@dataclass(frozen=True)
class Prediction:
    """The most probable class of a scan, how soon it needs an eye doctor, and all four probabilities.

    Attributes:
        file: the scan's name, as given.
        label: one of `octlet.core.labels.LABELS`; a tie goes to the first.
        probabilities: label -> probability, in label order, summing to 1.
        urgency: `octlet.core.labels.URGENCY` of the label.
    """

    file: str
    label: str
    probabilities: dict[str, float]
    urgency: str

    @classmethod
    def of(cls, file: str, probabilities: NDArray[np.float64]) -> "Prediction":
        """Build from probabilities, float64 (4,), in label order."""
        label = LABELS[int(probabilities.argmax())]
        return cls(file, label, dict(zip(LABELS, probabilities.tolist(), strict=True)), URGENCY[label])

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types, probabilities rounded to `DECIMALS`."""
        rounded = {label: round(value, DECIMALS) for label, value in self.probabilities.items()}
        return {"file": self.file, "label": self.label, "urgency": self.urgency, "probabilities": rounded}

    def as_row(self) -> tuple[str, ...]:
        """Return the fields of `CSV_COLUMNS`; the notice travels with every row."""
        numbers = (f"{value:.{DECIMALS}f}" for value in self.probabilities.values())
        return (self.file, self.label, self.urgency, *numbers, NOTICE)
