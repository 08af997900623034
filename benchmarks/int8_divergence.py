"""How far the answers of quantised runs are from the float network's, on the validation scans of their fold.

Rows are added to a file that is there.

    OCTLET_DATA=... python benchmarks/int8_divergence.py OUT.csv FLOAT_RUN QUANTISED_RUN...
"""

import csv
import os
import sys
from dataclasses import replace
from pathlib import Path

from octlet.compress.answers import answers, divergence
from octlet.compress.quant.run import load_quantised
from octlet.core.settings import from_mapping
from octlet.data.split import read_split
from octlet.train.checkpoint import load_float_run
from octlet.train.config import TrainConfig
from octlet.train.prior import shift_prior
from octlet.train.run import Feedback, folds_of


def main(out: Path, run: Path, quantised: list[Path]) -> None:
    trained = load_float_run(run)
    config = replace(from_mapping(TrainConfig, trained.meta["config"], "train"), weights="")
    fold = folds_of(config, Path(os.environ["OCTLET_DATA"]), read_split(run / "split.csv"), Feedback())[1]
    twins = [load_quantised(folder) for folder in quantised]
    shift_prior(trained, twins[0].meta.get("prior_shift", 0.0), run)
    expected = answers(trained.net, fold)
    new = not out.exists()
    with out.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(("run", "scans", "divergence_nats", "labels_changed"))
        for folder, twin in zip(quantised, twins, strict=True):
            found = answers(twin.twin, fold)
            changed = int((found.argmax(1) != expected.argmax(1)).sum())
            writer.writerow((folder, len(fold), round(divergence(expected, found), 5), changed))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [Path(word) for word in sys.argv[3:]])
