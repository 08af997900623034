"""Would several networks together be a better teacher than the dense one? Their probabilities, averaged.

    python benchmarks/ensembles.py docs/results/ensembles.csv NAME=predictions.csv NAME=predictions.csv ...

Each file holds every scan, said by networks that had not seen its patient. Every set of them is averaged and
held against the first.
"""

import sys
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import numpy as np
from flip import row_of, write_rows

from octlet.evaluate.paired import matched
from octlet.evaluate.predictions import Predictions, read_predictions


def main(out: Path, files: Mapping[str, Path]) -> None:
    first, *_ = files
    reference = read_predictions(files[first])
    known = {name: matched(reference, read_predictions(file), (first, name)) for name, file in files.items()}
    sets = [names for size in range(1, len(known) + 1) for names in combinations(known, size)]
    write_rows(out, [row_of(" + ".join(names), reference, mean(known, names)) for names in sets])


def mean(known: Mapping[str, Predictions], names: tuple[str, ...]) -> Predictions:
    """Return the mean of the probabilities that several networks give."""
    one = known[names[0]]
    shares = np.mean([known[name].probabilities for name in names], axis=0)
    return Predictions(one.paths, one.labels, one.patients, shares)


if __name__ == "__main__":
    pairs = dict(word.split("=", 1) for word in sys.argv[2:])
    main(Path(sys.argv[1]), {name: Path(file) for name, file in pairs.items()})
