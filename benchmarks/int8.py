"""What 8-bit integers save: file, latency, peak memory; and what training with rounding costs a step.

All ratios come from one run, side by side, in turn, with one thread. The networks are untrained, which
changes none of it.

    python benchmarks/int8.py docs/results/int8-cost.csv
"""

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from octlet.core.files import csv_of, write_text

SIZE = 224
ROUNDS = 15
STEPS = 3
MODELS = ("resnet101", "resnet101v2")


def main(out: Path) -> None:
    rows = []
    for name in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            rows += compare(name, Path(folder))
    write_text(out, csv_of(rows))
    for row in rows:
        print(f"{row['network']:12} {row['what']:54} {row['ratio']:>7}  {row['wanted']}")


def compare(name: str, folder: Path) -> list[dict[str, object]]:
    import torch

    torch.set_num_threads(1)
    net, twin, files = make(name, folder)

    def row(what: str, ratio: float, wanted: str = "") -> dict[str, object]:
        return {"network": name, "what": what, "ratio": round(ratio, 2), "wanted": wanted}

    taken = latencies(net, files)
    peaks = {kind: peak_memory(kind, name, files) for kind in ("eager", "float", "int8")}
    rows = [
        row("file: float32 / int8", files["float"].stat().st_size / files["int8"].stat().st_size, ">= 3.8"),
        row("latency: ONNX Runtime float32 / int8", taken["float"] / taken["int8"], ">= 3"),
        row("latency: torch eager float32 / int8", taken["eager"] / taken["int8"], ">= 6"),
        row("latency: ONNX Runtime float32 / int8 in OpenVINO", taken["float"] / taken["int8, OpenVINO"]),
        row("latency: torch eager float32 / int8 in OpenVINO", taken["eager"] / taken["int8, OpenVINO"]),
        row("peak memory: int8 / ONNX Runtime float32", peaks["int8"] / peaks["float"], "< 0.5"),
        row("peak memory: int8 / torch eager float32", peaks["int8"] / peaks["eager"]),
    ]
    for arithmetic in ("float32", "bfloat16"):
        ratio = step_ratio(net, twin, arithmetic)
        rows.append(row(f"training step, {arithmetic}: with rounding / without", ratio, "<= 2.2"))
    return rows


def make(name: str, folder: Path):
    """Return a network, its twin with rounding, calibrated, and the ONNX files of both."""
    from octlet.compress.config import QuantConfig
    from octlet.compress.quant.calibrate import calibrate
    from octlet.compress.quant.graph import FakeQuantised
    from octlet.export.onnx import to_onnx
    from octlet.export.package import simulated_scans
    from octlet.export.qdq import check_placement, to_qdq
    from octlet.models.resnet import build
    from octlet.models.spec import named_spec
    from octlet.train.showing import Fold

    net = build(named_spec(name)).eval()
    scans = simulated_scans(16, SIZE)
    fold = Fold(scans, np.arange(16), np.arange(16) % 4)
    config = replace(QuantConfig(), calibration=16)
    twin = FakeQuantised(net, config, SIZE)
    calibrate(twin, fold, config, 0, iter)
    files = {"float": folder / "float.onnx", "int8": folder / "int8.onnx"}
    files["float"].write_bytes(to_onnx(net, SIZE))
    integers = to_qdq(twin, SIZE).onnx
    check_placement(integers)
    files["int8"].write_bytes(integers)
    return net, twin, files


def latencies(net, files: dict[str, Path]) -> dict[str, float]:
    """Return the median seconds of one scan in torch eager and both files, measured in turn."""
    import torch

    from octlet.runtime.engines import onnxruntime, openvino

    batch = np.random.default_rng(0).uniform(-1, 1, (1, 1, SIZE, SIZE)).astype(np.float32)
    engines = {kind: onnxruntime.load(path.read_bytes(), SIZE, 1) for kind, path in files.items()}
    engines["int8, OpenVINO"] = openvino.load(files["int8"].read_bytes(), SIZE, 1)
    scan = torch.from_numpy(batch)

    def eager() -> None:
        with torch.inference_mode():
            net(scan)

    calls: dict[str, Callable[[], object]] = {"eager": eager}
    calls |= {kind: lambda engine=engine: engine.run(batch) for kind, engine in engines.items()}
    taken = {kind: [] for kind in calls}
    for lap in range(ROUNDS + 2):
        for kind, call in calls.items():
            began = time.perf_counter()
            call()
            if lap > 1:  # the first two warm up
                taken[kind].append(time.perf_counter() - began)
    return {kind: statistics.median(values) for kind, values in taken.items()}


def peak_memory(kind: str, name: str, files: dict[str, Path]) -> int:
    """Return the peak resident memory of a process that loads the network and computes five scans, bytes."""
    command = [sys.executable, __file__, "--peak", kind, name, str(files.get(kind, ""))]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak(kind: str, name: str, file: str) -> None:
    batch = np.zeros((1, 1, SIZE, SIZE), np.float32)
    if kind == "eager":
        import torch

        from octlet.models.resnet import build
        from octlet.models.spec import named_spec

        torch.set_num_threads(1)
        net = build(named_spec(name)).eval()
        with torch.inference_mode():
            for _ in range(5):
                net(torch.from_numpy(batch))
    else:
        from octlet.runtime.engines import onnxruntime

        engine = onnxruntime.load(Path(file).read_bytes(), SIZE, 1)
        for _ in range(5):
            engine.run(batch)
    status = Path("/proc/self/status").read_text()  # getrusage would tell the parent's peak, inherited
    print(1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1]))


def step_ratio(net, twin, arithmetic: str) -> float:
    """Return the median time of a training step with rounding over that of one without, batch 16."""
    import copy

    import torch
    import torch.nn.functional as F

    from octlet.compress.quant.fakequant import Watch

    light = copy.deepcopy(twin)
    light.lighten()
    light.watch(Watch.FOLLOW)
    nets = {"float": copy.deepcopy(net), "rounded": light}
    for each in nets.values():
        each.to(memory_format=torch.channels_last).train()
    scans = torch.zeros(16, 1, SIZE, SIZE).uniform_(-1, 1).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(16) % 4
    taken = {kind: [] for kind in nets}
    for lap in range(STEPS + 1):
        for kind, each in nets.items():
            began = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=arithmetic == "bfloat16"):
                outputs = each(scans)
            F.cross_entropy(outputs.logits.float(), labels).backward()
            if lap:
                taken[kind].append(time.perf_counter() - began)
    return statistics.median(taken["rounded"]) / statistics.median(taken["float"])


if __name__ == "__main__":
    if sys.argv[1] == "--peak":
        peak(*sys.argv[2:])
    else:
        main(Path(sys.argv[1]))
