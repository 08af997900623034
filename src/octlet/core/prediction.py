"""What a model says of one scan: a class, its urgency, how sure that is, or a refusal."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octlet.core.labels import LABELS, NOTICE, URGENCY
from octlet.core.quality import Quality

DECIMALS = 6  # engines and batch sizes differ beyond

NOT_OCT, POOR, UNCERTAIN = "not an OCT scan", "poor quality", "uncertain"
ABSTENTIONS = (NOT_OCT, POOR, UNCERTAIN)
UNKNOWN = "unknown"  # the urgency of a scan that is refused
URGENCIES = ("urgent", "routine", "observation", UNKNOWN)  # the most pressing first

CSV_COLUMNS = ("file", "label", "urgency", *(f"p_{label}" for label in LABELS), "set", "abstain", "notice")


@dataclass(frozen=True)
class Prediction:
    """The most probable class of a scan, all four probabilities, and whether to rely on them.

    Attributes:
        file: the scan's name, as given.
        label: one of `octlet.core.labels.LABELS`; a tie goes to the first.
        probabilities: label -> probability, in label order, summing to 1.
        urgency: one of `URGENCIES`: that of the label; where that is uncertain, of the most pressing class
            among the label and `set`; unknown where the scan is refused.
        set: the classes that cannot be ruled out at the model file's coverage, the most probable first;
            None where the file holds no thresholds.
        abstain: one of `ABSTENTIONS`, or None: the first two refuse the scan; the last says that the label
            is not probable enough to rely on.
        explanation: one or two sentences for a person.
        quality: what was measured of the scan.
    """

    file: str
    label: str
    probabilities: dict[str, float]
    urgency: str
    set: tuple[str, ...] | None
    abstain: str | None
    explanation: str
    quality: Quality

    @classmethod
    def of(
        cls,
        file: str,
        probabilities: NDArray[np.float64],
        quality: Quality,
        *,
        members: tuple[str, ...] | None = None,
        coverage: float = 0.0,
        confidence: float = 0.0,
        strange: str | None = None,
    ) -> "Prediction":
        """Build from probabilities and what was found out about them.

        Args:
            file: the scan's name.
            probabilities: float64 (4,), in label order.
            quality: of the scan, which refuses it where it has a fault.
            members: the classes of the conformal set, in any order.
            coverage: how often such a set holds the actual class, 0 to 1.
            confidence: the least probability of a label to rely on, 0 to 1.
            strange: why the model does not know such scans, as a sentence; None where it may.
        """
        label = LABELS[int(probabilities.argmax())]
        named = dict(zip(LABELS, probabilities.tolist(), strict=True))
        if members is not None:
            members = tuple(sorted(members, key=lambda each: (-named[each], LABELS.index(each))))
        if strange is not None:
            return cls(file, label, named, UNKNOWN, members, NOT_OCT, strange, quality)
        if quality.fault is not None:
            return cls(file, label, named, UNKNOWN, members, POOR, quality.fault, quality)
        doubt = named[label] < confidence or (members is not None and label not in members)
        possible = (label, *(members or ())) if doubt else (label,)
        urgency = min((URGENCY[each] for each in possible), key=URGENCIES.index)
        sentence = _explained(label, named[label], members, coverage, doubt)
        return cls(file, label, named, urgency, members, UNCERTAIN if doubt else None, sentence, quality)

    @property
    def refused(self) -> bool:
        """Whether the scan is not one that the model can say anything about."""
        return self.abstain in (NOT_OCT, POOR)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types, probabilities rounded to `DECIMALS`."""
        return {
            "file": self.file,
            "label": self.label,
            "urgency": self.urgency,
            "probabilities": {label: round(value, DECIMALS) for label, value in self.probabilities.items()},
            "set": None if self.set is None else list(self.set),
            "abstain": self.abstain,
            "explanation": self.explanation,
            "quality": self.quality.as_dict(),
        }

    def as_row(self) -> tuple[str, ...]:
        """Return the fields of `CSV_COLUMNS`; the notice travels with every row."""
        numbers = (f"{value:.{DECIMALS}f}" for value in self.probabilities.values())
        members = " ".join(self.set or ())
        return (self.file, self.label, self.urgency, *numbers, members, self.abstain or "", NOTICE)


def _explained(
    label: str, share: float, members: tuple[str, ...] | None, coverage: float, doubt: bool
) -> str:
    if members is None:
        return (
            f"{label} is the most probable, {_percent(share)}. "
            "How far to trust that is not known: the model file was never calibrated."
        )
    others = [each for each in members if each != label]
    at = f"at {_percent(coverage)} coverage"
    if not others:
        rest = f"the other classes are ruled out {at}"
    elif len(others) == 1:
        rest = f"{others[0]} cannot be ruled out {at}"
    else:
        rest = f"{', '.join(others[:-1])} and {others[-1]} cannot be ruled out {at}"
    if not doubt:
        return f"{label}, {_percent(share)}; {rest}."
    if not others:
        return f"{label} is the most probable, {_percent(share)}, which is too little to rely on."
    return f"{label} is the most probable, {_percent(share)}, but the model is not sure; {rest}."


def _percent(share: float) -> str:
    text = f"{share:.1%}"
    if text == "100.0%" and share < 1:
        return "over 99.9 %"
    return f"{text.removesuffix('%').removesuffix('.0')} %"
