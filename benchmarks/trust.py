"""Does a model's doubt mean something? Each fold calibrated on the others, measured on its own test scans.

    python benchmarks/trust.py OUT SCANS NOT_OCT SPLITS MODEL MODEL ...

SPLITS is a folder with fold-0.csv, fold-1.csv ..., one for each model file; NOT_OCT is what
`benchmarks/not_oct.py` wrote. For each fold temperature and thresholds are fitted on what the OTHER folds'
models said of their test scans, which are for training in this fold; the prototypes are those of its own
training scans. Nothing of a fold's test scans reaches its thresholds.

Writes OUT.csv and OUT.png, and keeps scores and calibrated model files in OUT.work, where the same models and
splits find them again.
"""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from octlet.core.errors import InputError
from octlet.core.files import csv_of, sha256_of, write_text
from octlet.core.image import read_scan
from octlet.core.labels import LABELS, URGENCY, index_of
from octlet.core.prediction import NOT_OCT, POOR, Prediction
from octlet.data.split import read_split
from octlet.evaluate.calibration import expected_calibration_error
from octlet.evaluate.doubt import share_of
from octlet.evaluate.figures import LIGHT
from octlet.evaluate.trust import risk_at_coverage
from octlet.runtime.predictor import Predictor, softmax

Row = dict[str, object]


@dataclass(frozen=True)
class Seen:
    """One image, what was said of it, and the larger of its distances as a share of its limit."""

    group: str
    patient: str
    label: str
    before: NDArray[np.float64]
    said: Prediction
    distance: float


def main(out: Path, scans: Path, strange: Path, splits: Path, models: list[Path]) -> None:
    folds = list(zip(models, sorted(splits.glob("fold-*.csv")), strict=True))
    work = out.with_suffix(".work") / key_of([file for fold in folds for file in fold])
    work.mkdir(parents=True, exist_ok=True)
    scores = [score(model, scans, split, work / f"scores-{k}.csv") for k, (model, split) in enumerate(folds)]
    real, others = [], []
    for k, (model, split) in enumerate(folds):
        file = fit(model, scans, split, scores[:k] + scores[k + 1 :], work / f"fold-{k}.octlet")
        predictor = Predictor.open(file, threads=1)
        real += list(seen_scans(predictor, scans, split))
        others += list(seen_others(predictor, strange))
    rows = [*of_scans(real), *of_quality(real), *of_others(others)]
    write_text(out.with_suffix(".csv"), csv_of(rows))
    for row in rows:
        print(
            " ".join(
                f"{value!s:>{width}}" for value, width in zip(row.values(), (34, 14, 8, 8, 8, 6), strict=True)
            )
        )
    draw(out.with_suffix(".png"), real, others)


def octlet(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "octlet", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def key_of(files: list[Path]) -> str:
    return hashlib.sha256("".join(map(sha256_of, files)).encode()).hexdigest()[:12]


def score(model: Path, scans: Path, split: Path, file: Path) -> Path:
    if not file.exists():
        octlet("calibrate", model, scans, "--split", split, "--subset", "test", "--scores", file)
    return file


def fit(model: Path, scans: Path, split: Path, scores: list[Path], file: Path) -> Path:
    if not file.exists():
        pooled = [word for each in scores for word in ("--from", each)]
        octlet("calibrate", model, scans, "--split", split, *pooled, "--out", file)
    return file


def see(predictor: Predictor, file: Path, group: str, patient: str, label: str) -> Seen:
    gray = read_scan(file)
    found = predictor.score([predictor.prepare(gray)])
    if predictor.trust is None or found.distances is None:
        raise TypeError(f"{file} met a model that was not calibrated")
    before = softmax(found.logits)[0]
    said = predictor.judge(gray, file.name, found)
    share = max(predictor.trust.strangeness(float(found.distances[0]), said.quality.layout))
    return Seen(group, patient, label, before, said, share)


def seen_scans(predictor: Predictor, scans: Path, split: Path) -> Iterator[Seen]:
    for record in read_split(split):
        if record.split == "test":
            yield see(predictor, scans / record.path, "scan", record.patient, record.label)


def seen_others(predictor: Predictor, folder: Path) -> Iterator[Seen]:
    for file in sorted(folder.glob("*/*.png")):
        try:
            yield see(predictor, file, file.parent.name, file.name, "")
        except InputError as error:  # white throughout: refused before any model sees it
            print(f"refused as unreadable: {error}")


def share(what: str, group: str, marks: list[bool], clusters: list[str]) -> Row:
    """Return a row with a share and its interval: patients, or images that come in five folds, are drawn."""
    found = share_of(marks, clusters)
    return row(what, group, found["value"], found["n"], found["low"], found["high"])


def row(
    what: str, group: str, value: float, n: int, low: float | None = None, high: float | None = None
) -> Row:
    told = [value, low, high]
    value, low, high = ("" if each is None else f"{each:.4f}" for each in told)  # type: ignore[assignment]
    return {"what": what, "group": group, "value": value, "low": low, "high": high, "n": n}


def of_scans(seen: list[Seen]) -> Iterator[Row]:
    labels = np.array([index_of(each.label) for each in seen])
    after = np.array([list(each.said.probabilities.values()) for each in seen])
    before = np.array([each.before for each in seen])
    for name, p in (("before", before), ("after", after)):
        yield row("calibration error (ECE)", name, expected_calibration_error(p, labels), len(seen))
    yield share("set holds the class", "all", [holds(each) for each in seen], patients(seen))
    for label in LABELS:
        own = [each for each in seen if each.label == label]
        yield share("set holds the class", label, [holds(each) for each in own], patients(own))
    sizes = [len(each.said.set or ()) for each in seen]
    yield row("classes in the set, mean", "all", float(np.mean(sizes)), len(seen))
    for reason in (NOT_OCT, POOR):
        yield share(
            f"refused: {reason}", "all", [each.said.abstain == reason for each in seen], patients(seen)
        )
    yield share(
        "uncertain",
        "all",
        [each.said.abstain == "uncertain" for each in seen],
        patients(seen),
    )
    told = [each for each in seen if each.said.abstain is None]
    yield share("wrong", "all", [not right(each) for each in seen], patients(seen))
    yield share("wrong", "not uncertain", [not right(each) for each in told], patients(told))
    urgent = [each for each in seen if URGENCY[each.label] == "urgent"]
    missed = [each.said.label == "NORMAL" for each in urgent]
    yield share("urgent scan called NORMAL", "all", missed, patients(urgent))
    missed = [each.said.abstain is None and each.said.label == "NORMAL" for each in urgent]
    yield share("urgent scan called NORMAL", "not uncertain", missed, patients(urgent))


def of_quality(seen: list[Seen]) -> Iterator[Row]:
    """Yield how far the scans stay from each limit of `octlet.core.quality`: the extreme of all."""
    measured = [each.said.quality for each in seen]
    yield row("quality: contrast, least", "all", min(each.contrast for each in measured), len(seen))
    for name in ("saturated", "noise", "cut", "empty"):
        most = max(getattr(each, name) for each in measured)
        yield row(f"quality: {name}, most", "all", most, len(seen))
    yield row("quality: upright, least", "all", min(each.upright for each in measured), len(seen))


def of_others(seen: list[Seen]) -> Iterator[Row]:
    groups = dict.fromkeys(each.group for each in seen)
    for name in (*groups, "all"):
        own = [each for each in seen if name in (each.group, "all")]
        names = [f"{each.group}/{each.patient}" for each in own]
        yield share("not OCT: refused", name, [each.said.refused for each in own], names)
        yield share(
            "not OCT: refused by distance", name, [each.said.abstain == NOT_OCT for each in own], names
        )


def patients(seen: list[Seen]) -> list[str]:
    return [each.patient for each in seen]


def holds(each: Seen) -> bool:
    return each.label in (each.said.set or ())


def right(each: Seen) -> bool:
    return each.said.label == each.label


def draw(path: Path, real: list[Seen], others: list[Seen]) -> None:
    figure = Figure(figsize=(11, 4.2), dpi=150, layout="constrained", facecolor=LIGHT.paper)
    left, right_ = figure.subplots(1, 2)
    confidence = np.array([max(each.said.probabilities.values()) for each in real])
    coverage, risk = risk_at_coverage(confidence, np.array([right(each) for each in real]))
    left.plot(100 * coverage, 100 * risk, color=LIGHT.bar, label="the surest first")
    told = [each for each in real if each.said.abstain is None]
    point = 100 * len(told) / len(real), 100 * np.mean([not right(each) for each in told])
    left.plot(*point, "o", color="#d55e00", label="not called uncertain, not refused")
    told_ = f"{point[0]:.0f} % answered,\n{point[1]:.1f} % wrong"
    left.annotate(told_, point, (-12, 4), textcoords="offset points", ha="right")
    left.set(xlabel="scans answered, %", ylabel="of these wrong, %", xlim=(0, 101), ylim=(0, None))
    left.set_title(f"Risk against coverage, {len(real)} unseen scans", loc="left", fontsize=10)
    left.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 0.97))
    bins = np.geomspace(0.25, 12, 60)
    for seen, name, colour in ((real, "unseen OCT scans", LIGHT.bar), (others, "not OCT", "#d55e00")):
        shares = np.clip([each.distance for each in seen], bins[0], bins[-1])
        weights = np.full(len(shares), 100 / len(shares))
        right_.hist(shares, bins, weights=weights, alpha=0.7, color=colour, label=f"{name} ({len(seen)})")
    right_.axvline(1, color=LIGHT.ink, linestyle="--", linewidth=1)
    right_.annotate("refused", (3.2, 0.5), xycoords=("data", "axes fraction"))
    right_.set(xscale="log", xlabel="the larger distance, of embedding or layout, limit = 1", ylabel="%")
    right_.set_xticks([0.25, 0.5, 1, 2, 5, 10], ["0.25", "0.5", "1", "2", "5", "10"])
    right_.set_title("Distance", loc="left", fontsize=10)
    right_.legend(frameon=False, loc="upper left", bbox_to_anchor=(0.5, 1))
    for axes in (left, right_):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:5]), list(map(Path, sys.argv[5:])))
