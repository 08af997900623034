"""What is refused for its layout, whatever the network: scans, scans made poor, and images that are none.

And which scans are taken to lie upside down: those that do, and those that do not.

    python benchmarks/layout.py OUT.csv SCANS SPLITS NOT_OCT ...

SPLITS is a folder with fold-0.csv, fold-1.csv ... of a cross-validation. In each fold the usual layout is
that of its training scans, and the limit is what the OTHER folds' test scans stay under, at several shares
of scans that may be refused. Counted are its own test scans; every eighth of all, corrupted as
`octlet.data.corruption` has it; and the images in the folders NOT_OCT, which `benchmarks/not_oct.py` wrote.

Writes OUT.csv, and OUT.png: how far each lies from the usual layout, as a share of the limit at 1 %.
"""

import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from octlet.cli.ui import bar
from octlet.core.errors import InputError
from octlet.core.files import csv_of, write_text
from octlet.core.image import Gray, read_scan
from octlet.core.quality import measure
from octlet.core.trust import off_centre
from octlet.data.corruption import CORRUPTIONS, SEVERITIES, corrupt
from octlet.data.source import read_pixels
from octlet.data.split import SplitRecord, read_split
from octlet.evaluate.doubt import share_of
from octlet.evaluate.figures import LIGHT
from octlet.evaluate.trust import distance_limit, layout_of_many

SHARES = (0.005, 0.01, 0.02)
DRAWN = 0.01
EVERY = 8
Floats = NDArray[np.float64]
Row = dict[str, object]


def main(out: Path, scans: Path, splits: Path, strange: list[Path]) -> None:
    folds = [read_split(file) for file in sorted(splits.glob("fold-*.csv"))]
    test = [[each for each in fold if each.split == "test"] for fold in folds]
    paths = [each.path for fold in test for each in fold]
    grays = {path: read_pixels(scans, path) for path in paths}
    known = {path: layout(grays[path]) for path in shown(paths, "scans")}
    limits = list(limits_of(folds, test, known))
    drawn: dict[str, list[float]] = {}
    rows = list(of_scans(test, limits, known))
    own = zip(test, limits, strict=True)
    drawn["unseen scans"] = [limit.share(known[each.path]) for fold, limit in own for each in fold]
    poor = corrupted(grays, sorted(paths)[::EVERY])
    rows += of_poor(poor, sorted(paths)[::EVERY], limits)
    drawn["scans, corrupted"] = shares([each for images in poor.values() for each in images], limits)
    for folder in strange:
        images = {file: of_file(file) for file in sorted(folder.glob("*/*.png"))}
        rows += of_others(folder.name, images, limits)
        drawn[f"no OCT: {folder.name}, {len(images)} images"] = shares(list(images.values()), limits)
    rows += of_upright(folds[0], grays, poor)
    write_text(out, csv_of(rows))
    draw(out.with_suffix(".png"), drawn)
    for row in rows:
        print(" ".join(f"{value!s:>{width}}" for value, width in zip(row.values(), WIDTHS, strict=True)))


WIDTHS = (6, 28, 14, 8, 8, 8, 6)


def shown(paths: list[str], what: str) -> Iterator[str]:
    return (paths[i] for i in bar(what)(range(len(paths))))


def layout(gray: Gray) -> Floats:
    return np.array(measure(gray).layout)


class Limit:
    """A fold's usual layout, and at each share the limit that the other folds' test scans set."""

    def __init__(self, usual: tuple[Floats, Floats], others: Floats) -> None:
        self.usual = usual
        self.at = {share: distance_limit(others, share) for share in SHARES}

    def refuses(self, measured: Floats, share: float) -> list[bool]:
        """Say of layouts, (m,) or (n, m), which are refused at a share."""
        return list(off_centre(np.atleast_2d(measured), *self.usual) > self.at[share])

    def share(self, measured: Floats) -> float:
        """Return how far a layout lies from the usual one, the limit at `DRAWN` being 1."""
        return float(off_centre(measured[None], *self.usual)[0]) / self.at[DRAWN]


def limits_of(
    folds: list[list[SplitRecord]], test: list[list[SplitRecord]], known: dict[str, Floats]
) -> Iterator[Limit]:
    usual, far = [], []
    for fold, tested in zip(folds, test, strict=True):
        trained = np.array([known[each.path] for each in fold if each.split == "train"])
        usual.append(layout_of_many(trained))
        far.append(off_centre(np.array([known[each.path] for each in tested]), *usual[-1]))
    for k, own in enumerate(usual):
        yield Limit(own, np.concatenate(far[:k] + far[k + 1 :]))


def of_scans(test: list[list[SplitRecord]], limits: list[Limit], known: dict[str, Floats]) -> Iterator[Row]:
    patients = [each.patient for fold in test for each in fold]
    for share in SHARES:
        marks = [
            limit.refuses(known[each.path], share)[0]
            for fold, limit in zip(test, limits, strict=True)
            for each in fold
        ]
        yield row(share, "unseen scans", "all", marks, patients)


def corrupted(grays: dict[str, Gray], paths: list[str]) -> dict[tuple[str, int], list["Seen"]]:
    cases = [(name, severity, path) for name in CORRUPTIONS for severity in SEVERITIES for path in paths]
    found: dict[tuple[str, int], list[Seen]] = {}
    for i in bar("poor scans")(range(len(cases))):
        name, severity, path = cases[i]
        rng = np.random.default_rng((zlib.crc32(path.encode()), severity))
        found.setdefault((name, severity), []).append(seen(corrupt(grays[path], name, severity, rng)))
    return found


def of_poor(
    found: dict[tuple[str, int], list["Seen"]], paths: list[str], limits: list[Limit]
) -> Iterator[Row]:
    """Yield what is refused of corrupted scans; each is judged by every fold, trained on it or not."""
    for share in SHARES:
        for (name, severity), images in found.items():
            yield from over_folds(share, f"scans, {name}", str(severity), images, paths, limits)


def of_upright(
    records: list[SplitRecord], grays: dict[str, Gray], poor: dict[tuple[str, int], list["Seen"]]
) -> Iterator[Row]:
    """Yield what is refused as upside down, whatever the limit of the layout; intervals draw patients."""
    patients = {each.path: each.patient for each in records}
    paths = list(grays)
    clusters = [patients[path] for path in paths]
    for what, rows in (("scans", slice(None)), ("scans turned upside down", slice(None, None, -1))):
        found = [measure(grays[path][rows]) for path in shown(paths, what)]
        marks = ["upside down" in (each.fault or "") for each in found]
        yield row(0, f"{what}: upside down", "all", marks, clusters)
        for end, value in (("least", min), ("most", max)):
            told = {"value": f"{value(each.upright for each in found):.4f}", "low": "", "high": ""}
            yield {"refusal": 0, "what": f"{what}: upright", "group": end, **told, "n": len(found)}
    drawn = [patients[path] for path in sorted(paths)[::EVERY]]
    for (name, severity), images in poor.items():
        yield row(0, f"scans, {name}: upside down", str(severity), [each.down for each in images], drawn)


def of_others(what: str, images: dict[Path, "Seen"], limits: list[Limit]) -> Iterator[Row]:
    groups = dict.fromkeys(file.parent.name for file in images)
    for share in SHARES:
        for name in (*groups, "all"):
            own = [file for file in images if name in (file.parent.name, "all")]
            given = [images[file] for file in own]
            yield from over_folds(share, what, name, given, list(map(str, own)), limits)


class Seen(NamedTuple):
    """An image's layout, infinite where it has none; is it refused for its quality, and as upside down?"""

    layout: Floats
    poor: bool
    down: bool


def seen(gray: Gray) -> Seen:
    found = measure(gray)
    fault = found.fault or ""
    return Seen(np.array(found.layout or (np.inf,)), fault != "", "upside down" in fault)


def of_file(file: Path) -> Seen:
    try:
        return seen(read_scan(file))
    except InputError:
        return Seen(np.array([np.inf]), poor=True, down=False)


def over_folds(
    share: float, what: str, group: str, images: list[Seen], names: list[str], limits: list[Limit]
) -> Iterator[Row]:
    """Yield rows over every image and fold; the interval draws images, each with what all folds say."""
    clusters = [name for name in names for _ in limits]
    marks = [limit.refuses(each.layout, share)[0] for each in images for limit in limits]
    poor = [each.poor for each in images for _ in limits]
    yield row(share, f"{what}: layout", group, marks, clusters)
    yield row(
        share, f"{what}: or quality", group, [a or b for a, b in zip(marks, poor, strict=True)], clusters
    )


def shares(images: list[Seen], limits: list[Limit]) -> list[float]:
    return [limit.share(each.layout) for each in images for limit in limits]


def draw(path: Path, drawn: dict[str, list[float]]) -> None:
    figure = Figure(figsize=(9, 4), dpi=150, layout="constrained", facecolor=LIGHT.paper)
    axes = figure.subplots()
    bins = np.geomspace(0.1, 20, 60)
    colours = (LIGHT.bar, "#009e73", "#d55e00", "#cc79a7")
    for (name, values), colour in zip(drawn.items(), colours, strict=False):
        weights = np.full(len(values), 100 / len(values))
        clipped = np.clip(values, bins[0], bins[-1])
        axes.hist(clipped, bins, weights=weights, histtype="step", linewidth=1.6, color=colour, label=name)
    axes.axvline(1, color=LIGHT.ink, linestyle="--", linewidth=1)
    axes.annotate("refused", (1.08, 0.93), xycoords=("data", "axes fraction"))
    axes.set(xscale="log", xlabel=f"distance of the layout, limit at {DRAWN:.0%} = 1", ylabel="%")
    axes.set_xticks([0.1, 0.2, 0.5, 1, 2, 5, 10, 20], ["0.1", "0.2", "0.5", "1", "2", "5", "10", "20"])
    axes.legend(frameon=False, loc="upper right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def row(refusal: float, what: str, group: str, marks: list[bool], clusters: list[str]) -> Row:
    found = share_of(marks, clusters)
    told = {name: "" if found[name] is None else f"{found[name]:.4f}" for name in ("value", "low", "high")}
    return {"refusal": refusal, "what": what, "group": group, **told, "n": found["n"]}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), list(map(Path, sys.argv[4:])))
