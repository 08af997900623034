"""From the B-scans of an eye to one answer, the most pressing first; docs/clinical.md has the reasons.

A mean over the volume would let 49 healthy B-scans hide an ill one. The largest value of any B-scan would
find something in nearly every healthy eye: at 2 % false alarms a B-scan, in 63 % of volumes of 49. A lesion
is wider than the way from one B-scan to the next, so a class counts where `NEIGHBOURS` agree on it. A
single B-scan that is sure of something more pressing makes the eye uncertain, and is never lost.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from octlet.clinical.volume import Volume
from octlet.core.labels import LABELS, URGENCY
from octlet.core.prediction import DECIMALS, UNCERTAIN, UNKNOWN, URGENCIES, Prediction

NEIGHBOURS = 3  # B-scans side by side
SURE = 0.9  # probability from which a B-scan counts without its neighbours


@dataclass(frozen=True)
class JudgedVolume:
    """A volume's B-scans as a model has judged them, in the file's order; the scans themselves are let go.

    Attributes:
        file: as in `Volume`, and so are `eye`, `subject`, `visit`, `series` and `number`.
        predictions: of the B-scans that could be prepared.
        unreadable: how many could not.
    """

    file: str
    eye: str | None
    subject: str | None
    predictions: tuple[Prediction, ...]
    unreadable: int = 0
    visit: str = ""
    series: str = ""
    number: int = 0

    @classmethod
    def of(cls, volume: Volume, predictions: Sequence[Prediction], scans: int) -> "JudgedVolume":
        """Build from a volume, which may have let its scans go, and what was said of them; `scans` in all."""
        return cls(
            volume.file,
            volume.eye,
            volume.subject,
            tuple(predictions),
            scans - len(predictions),
            volume.visit,
            volume.series,
            volume.number,
        )


@dataclass(frozen=True)
class EyePrediction:
    """What a model says of one eye.

    Attributes:
        files: its volumes.
        eye: "R", "L" or None.
        subject: the patient's pseudonym, or None.
        scans: how many B-scans there are.
        refused: how many of them were left out: not OCT, of poor quality, or unreadable.
        label: the most pressing class that neighbouring B-scans agree on.
        probabilities: label -> mean over the neighbours that decided, summing to 1.
        urgency: one of `URGENCIES`.
        abstain: None, "uncertain", or why all B-scans were refused.
        explanation: one or two sentences for a person.
        most_urgent: names of all B-scans that were judged, the most pressing first, refused ones last.
    """

    files: tuple[str, ...]
    eye: str | None
    subject: str | None
    scans: int
    refused: int
    label: str
    urgency: str
    probabilities: dict[str, float]
    abstain: str | None
    explanation: str
    most_urgent: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types, probabilities rounded to `DECIMALS`."""
        rounded = {label: round(value, DECIMALS) for label, value in self.probabilities.items()}
        return {
            "files": list(self.files),
            "eye": self.eye,
            "subject": self.subject,
            "scans": self.scans,
            "refused": self.refused,
            "label": self.label,
            "urgency": self.urgency,
            "probabilities": rounded,
            "abstain": self.abstain,
            "explanation": self.explanation,
            "most_urgent": list(self.most_urgent),
        }


def eyes_of(volumes: Iterable[JudgedVolume]) -> list[EyePrediction]:
    """Return one prediction for each eye, the most pressing first.

    Volumes are of one eye where they name the same visit and the same side; the others stand alone. What
    could not be read of an eye counts, too; an eye without a prediction is left out.
    """
    eyes: dict[object, list[JudgedVolume]] = {}
    for number, volume in enumerate(volumes):
        known = volume.visit and volume.eye
        eyes.setdefault((volume.visit, volume.eye, volume.subject) if known else number, []).append(volume)
    judged = [eye_of(eye) for eye in eyes.values() if any(volume.predictions for volume in eye)]
    return sorted(judged, key=lambda eye: URGENCIES.index(eye.urgency))


def eye_of(volumes: Sequence[JudgedVolume]) -> EyePrediction:
    """Return what the volumes of one eye say together; there is a prediction among them."""
    everything = [each for volume in volumes for each in volume.predictions]
    kept = [each for each in everything if not each.refused]
    unreadable = sum(volume.unreadable for volume in volumes)
    runs = [[each for each in run if not each.refused] for run in _runs(volumes)]
    left_out = len(everything) - len(kept) + unreadable
    label, urgency, probabilities, abstain, explanation = (
        _answer([run for run in runs if run]) if kept else _refusal(everything)
    )
    if 2 * left_out > len(everything) + unreadable and abstain is None and URGENCY[label] != "urgent":
        abstain = UNCERTAIN  # what was left out may be the ill part
        explanation += " Over half of the B-scans were left out."
    return EyePrediction(
        tuple(volume.file for volume in volumes),
        volumes[0].eye,
        volumes[0].subject,
        len(everything) + unreadable,
        left_out,
        label,
        urgency,
        probabilities,
        abstain,
        explanation,
        tuple(each.file for each in most_urgent(everything)),
    )


def most_urgent(predictions: Iterable[Prediction]) -> list[Prediction]:
    """Sort by urgency, then by the probability of the urgent classes; refused scans stand last."""
    return sorted(predictions, key=lambda each: (URGENCIES.index(each.urgency), -_alarm(each.probabilities)))


def _alarm(probabilities: dict[str, float]) -> float:
    return sum(share for label, share in probabilities.items() if URGENCY[label] == "urgent")


def _pressing(label: str) -> int:
    return URGENCIES.index(URGENCY[label])


def _runs(volumes: Sequence[JudgedVolume]) -> list[list[Prediction]]:
    """Return the B-scans that neighbour each other: of a volume, or of single ones of a series by number."""
    single = [volume for volume in volumes if volume.series and len(volume.predictions) == 1]
    runs = [list(volume.predictions) for volume in volumes if volume not in single]
    ordered = sorted(single, key=lambda volume: (volume.series, volume.number))
    for _, series in groupby(ordered, key=lambda volume: volume.series):
        runs.append([volume.predictions[0] for volume in series])
    return runs


_Answer = tuple[str, str, dict[str, float], str | None, str]


def _answer(runs: Sequence[Sequence[Prediction]]) -> _Answer:
    windows = [
        run[start : start + NEIGHBOURS] for run in runs for start in range(max(len(run) - NEIGHBOURS + 1, 1))
    ]
    window = min(windows, key=_order)
    means = _mean(window)
    label = _most_probable(means)
    urgency, abstain = URGENCY[label], None
    told = _told(window)
    explanation = f"{label} in {told}, mean probability {means[label]:.2f}."
    if label == "NORMAL" and len(windows) > 1:
        explanation = f"No neighbouring B-scans agree on a disease; the least normal are {told}."
    doubtful = [each for each in window if each.abstain == UNCERTAIN]
    if 2 * len(doubtful) > len(window):
        abstain = UNCERTAIN
        urgency = min((urgency, *(each.urgency for each in doubtful)), key=URGENCIES.index)
        explanation += " The model cannot tell the classes apart there; a person has to look."
    alone = [each for run in runs for each in run if _alone(each, urgency)]
    if alone:
        first = most_urgent(alone)[0]
        abstain, urgency = UNCERTAIN, URGENCY[first.label]
        explanation += f" But {first.file} alone is {first.label}, {first.probabilities[first.label]:.2f}."
    return label, urgency, means, abstain, explanation


def _order(window: Sequence[Prediction]) -> tuple[int, float]:
    """Sort windows: the most pressing first; of these the surest, but of normal ones the least sure."""
    means = _mean(window)
    label = _most_probable(means)
    return _pressing(label), means[label] if label == "NORMAL" else -means[label]


def _alone(prediction: Prediction, urgency: str) -> bool:
    pressing = _pressing(prediction.label) < URGENCIES.index(urgency)
    return pressing and prediction.abstain is None and prediction.probabilities[prediction.label] >= SURE


def _mean(predictions: Sequence[Prediction]) -> dict[str, float]:
    return {
        label: sum(each.probabilities[label] for each in predictions) / len(predictions) for label in LABELS
    }


def _most_probable(means: dict[str, float]) -> str:
    return max(LABELS, key=lambda label: means[label])


def _told(window: Sequence[Prediction]) -> str:
    names = [each.file for each in window]
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _refusal(predictions: Sequence[Prediction]) -> _Answer:
    reason, count = Counter(each.abstain for each in predictions).most_common(1)[0]
    means = _mean(predictions)
    told = f"Every B-scan was refused, {count} of {len(predictions)} as: {reason}."
    return _most_probable(means), UNKNOWN, means, reason, told
