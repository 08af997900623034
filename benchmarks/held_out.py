"""What runs of a cross-validation say of the test scans of their own splits: no export, on a GPU if any.

    python benchmarks/held_out.py OUT.csv SCANS --prior-shift 0.25 'real/fold-{k}/train' [MORE ...]

Several patterns are one ensemble: the mean of its networks' probabilities. `{k}` is the fold's number; folds
that are not there are left out, and those that are there are told.
With --mirror each network is shown every scan mirrored left to right too, and says the mean. With --size all
see scans of that size instead of their own.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from octlet.core.errors import InputError
from octlet.core.labels import index_of
from octlet.data.cache import prepared_scans
from octlet.data.source import open_source
from octlet.evaluate.predictions import Predictions, merge, write_predictions
from octlet.train.checkpoint import load_float_run
from octlet.train.config import TrainConfig
from octlet.train.loop import probabilities_of
from octlet.train.prior import shift_prior
from octlet.train.run import device_of, trained_split
from octlet.train.showing import Fold


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("scans", type=Path)
    parser.add_argument("runs", nargs="+", help="patterns of run folders")
    parser.add_argument("--prior-shift", type=float, default=0.0)
    parser.add_argument("--mirror", action="store_true")
    parser.add_argument("--size", type=int, help="pixels, instead of each network's own")
    args = parser.parse_args()
    folds = present_folds(args.runs[0])
    parts = [
        said(
            [Path(run.format(k=k)) for run in args.runs], args.scans, args.prior_shift, args.mirror, args.size
        )
        for k in folds
    ]
    write_predictions(args.out, merge(parts))
    print(f"{args.out}: {', '.join(args.runs[0].format(k=k) for k in folds)}")


def present_folds(pattern: str) -> list[int]:
    """Return the folds whose folders are there; a pattern without "{k}" names one."""
    folds = [k for k in range(100 if "{k}" in pattern else 1) if Path(pattern.format(k=k)).is_dir()]
    if not folds:
        raise InputError("no such run folder", path=Path(pattern), remedy='"{k}" stands for the fold')
    return folds


def said(
    runs: list[Path], scans: Path, prior_shift: float, mirror: bool, size: int | None = None
) -> Predictions:
    """Return the mean of what runs of one split say of its test scans, each at its own size or at `size`."""
    networks = [load_float_run(run) for run in runs]
    split = trained_split(runs[0], networks[0].meta)
    for run, each in zip(runs, networks, strict=True):
        if trained_split(run, each.meta) != split:  # it may have learned from these test scans
            raise InputError(f"its split is not that of {runs[0]}", path=run, remedy="give runs of one split")
        shift_prior(each, prior_shift, run)
    rows = sorted((row for row in split if row.split == "test"), key=lambda row: row.path)
    labels = np.array([index_of(row.label) for row in rows], dtype=np.int64)
    config = TrainConfig(amp="off")
    device = device_of(config)
    found = []
    for each in networks:  # not `Ensemble`, which would enlarge the small scans
        side = size or each.meta["size"]
        shown = prepared_scans(open_source(scans).root, [(row.path, row.sha256) for row in rows], side)
        net = each.net.to(device)
        for each_way in (shown, shown[:, :, ::-1]) if mirror else (shown,):
            fold = Fold(each_way, np.arange(len(rows)), labels)
            found.append(probabilities_of(net, fold, config, device))
    paths, patients = tuple(row.path for row in rows), tuple(row.patient for row in rows)
    return Predictions(paths, labels, patients, np.mean(found, axis=0))


if __name__ == "__main__":
    torch.backends.cudnn.allow_tf32 = False
    main()
