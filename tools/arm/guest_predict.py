"""Run under emulation by `make arm-count`: predict one scan again and again, marking where each part ends.

    guest_predict.py MODEL ENGINE SCAN TIMES

A mark is the closing of a file descriptor that cannot exist: `insn_count.c` sees it and writes its counters.
"""

import contextlib
import os
import sys

from octlet.core.image import normalise, read_scan
from octlet.runtime.predictor import Predictor

MARK = -7700
PARTS = ("decode", "preprocessing", "network", "answer")


def mark() -> None:
    """Let the counters be written."""
    with contextlib.suppress(OSError):
        os.close(MARK)


def main(model: str, engine: str, scan: str, times: int) -> None:
    """Predict `scan` once to warm up and `times` times more; before and after each part is a mark."""
    predictor = Predictor.open(model, engine=engine, threads=1)  # waiting threads would spin, and be counted
    for turn in range(times + 1):
        if turn == 1:
            mark()
        gray = read_scan(scan)
        _end_of_part(turn)
        prepared = predictor.prepare(gray)
        batch = normalise(prepared.pixels[None])
        _end_of_part(turn)
        outputs = predictor.engine.run(batch)
        _end_of_part(turn)
        prediction = predictor.judge(gray, scan, predictor.weigh(outputs, (prepared.box,)))
        _end_of_part(turn)
    sys.stdout.write(f"{prediction.label}\n")


def _end_of_part(turn: int) -> None:
    if turn:
        mark()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
