"""Figures of several predictions on the scans that all of them have; each paired with the first.

    python benchmarks/same_scans.py OUT.csv NAME=A.csv,B.csv,... NAME=C.csv ...

The files of one NAME are pooled: folds.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import flip

from octlet.core.files import csv_of, write_text
from octlet.evaluate.predictions import Predictions, merge, read_predictions
from octlet.evaluate.summary import summarise


def main(out: Path, files: Mapping[str, Sequence[Path]]) -> None:
    said = {name: merge([read_predictions(file) for file in each]) for name, each in files.items()}
    common = set.intersection(*(set(each.paths) for each in said.values()))
    shared = {name: on(each, common) for name, each in said.items()}
    first, *_ = shared.values()
    write_text(out, csv_of([row_of(name, first, each) for name, each in shared.items()]))


def on(said: Predictions, paths: set[str]) -> Predictions:
    """Return the predictions for some scans, sorted by path."""
    return said.select(
        sorted((k for k, path in enumerate(said.paths) if path in paths), key=said.paths.__getitem__)
    )


def row_of(name: str, first: Predictions, said: Predictions) -> dict[str, object]:
    summary = summarise(said)
    row: dict[str, object] = {"model": name, "n": summary["n"], "patients": summary["patients"]}
    row |= {
        key: value for key, value in flip.row_of(name, first, said).items() if key not in ("way", "scans")
    }
    row |= {
        f"sensitivity_{label}": f"{each['sensitivity']:.4f}" for label, each in summary["per_class"].items()
    }
    return row | {"urgent_called_normal": summary["urgent_called_normal"]}


if __name__ == "__main__":
    pairs = dict(word.split("=", 1) for word in sys.argv[2:])
    main(Path(sys.argv[1]), {name: [Path(file) for file in text.split(",")] for name, text in pairs.items()})
