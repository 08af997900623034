"""What `octlet predict` of one scan costs from a standing start, beside the bare engine; and its peak memory.

    python benchmarks/cold_start.py docs/results/cold-start.csv SCAN.jpeg MODEL.octlet ...

The bare process imports onnxruntime and numpy, loads the same ONNX file at one thread, and runs it once on an
array of zeros: no Pillow, no scan, no checks. It ends as any script does, by taking apart what it imported;
`octlet predict` leaves that to the system, so it is compared with a bare process that does so, too. All are
started in turn; times are the processes' own CPU seconds, which other work on the machine disturbs least, and
wall-clock seconds.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from octlet.core.bundle import ONNX, open_bundle
from octlet.core.files import csv_of, write_text

ROUNDS = 11
# an installed package has its bytecode compiled; let a checkout keep it too
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
BARE = """
import os, sys
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
session.run(None, {"image": numpy.zeros((1, 1, int(sys.argv[2]), int(sys.argv[2])), numpy.float32)})
"""
ENDED = BARE + "os._exit(0)\n"


def main(out: Path, scan: Path, models: list[Path]) -> None:
    rows = [row for model in models for row in measure(model, scan)]
    write_text(out, csv_of(rows))
    for row in rows:
        print("  ".join(f"{value!s:24}" for value in row.values()))


def measure(model: Path, scan: Path) -> list[dict[str, object]]:
    bundle = open_bundle(model)
    size = bundle.manifest.preprocessing.size
    with tempfile.TemporaryDirectory() as folder:
        network = Path(folder, ONNX)
        network.write_bytes(bundle.read(ONNX))
        bare, ended = ([sys.executable, "-c", code, str(network), str(size)] for code in (BARE, ENDED))
        octlet = [sys.executable, "-m", "octlet", "predict", "-m", str(model), "--threads", "1", str(scan)]
        commands = bare, ended, octlet
        for command in commands:  # the files are in the page cache, the bytecode is compiled
            run(command)
        turns = [[run(command) for command in commands] for _ in range(ROUNDS)]
    medians = [
        [statistics.median(each) for each in zip(*runs, strict=True)] for runs in zip(*turns, strict=True)
    ]
    (cpu, wall, peak), (_, short, _), (own_cpu, own_wall, own_peak) = medians
    name = bundle.manifest.name
    told = [
        ("CPU seconds, octlet / bare", own_cpu / cpu, "at most 1.3"),
        ("wall seconds, octlet / bare", own_wall / wall, "at most 1.3"),
        ("wall seconds, octlet / bare that ends at once", own_wall / short, ""),
        ("CPU seconds, bare", cpu, ""),
        ("wall seconds, bare", wall, ""),
        ("peak memory of octlet predict, MB", own_peak, "at most 110, pruned int8"),
        ("peak memory of the bare process, MB", peak, ""),
    ]
    return [
        {
            "model": name,
            "bytes": model.stat().st_size,
            "what": what,
            "value": f"{value:.3g}",
            "wanted": wanted,
        }
        for what, value, wanted in told
    ]


def run(words: list[str]) -> tuple[float, float, float]:
    """Return CPU seconds, wall seconds and peak resident memory in MB (10^6 bytes) of a process."""
    begin = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words)
    return usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), list(map(Path, sys.argv[3:])))
