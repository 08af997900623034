"""The ways of running a network that `peers.py` compares: from a file to an engine of one thread.

    python benchmarks/peers_ways.py WAY NETWORK SIZE SCAN

is one such way from a standing start: it imports what it needs, loads the network, reads and prepares one
scan, and prints its class. Reading and preparing are Octlet's, the same for all.
"""

import importlib
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octlet.core.errors import UsageError
from octlet.core.image import normalise, prepare, read_scan
from octlet.core.labels import LABELS
from octlet.runtime.engine import ENGINES, Engine, Outputs

THREADS = 1
EAGER, COMPILED = "torch", "torch.compile"


class Torch:
    """An `octlet.runtime.engine.Engine`: a run's float32 network in PyTorch, called or compiled."""

    def __init__(self, net: Any, name: str) -> None:
        self.name = name
        self._net = net

    def run(self, batch: NDArray[np.float32]) -> Outputs:
        """Compute float32 (N, 1, S, S)."""
        import torch

        with torch.inference_mode():
            logits, cam, embedding = (each.numpy() for each in self._net(torch.from_numpy(batch)))
        return Outputs(logits, cam, embedding)


def load(way: str, network: Path, size: int) -> Engine:
    """Load a network with one thread.

    `way` is `EAGER` or `COMPILED`, whose network is a run's checkpoint, or one of Octlet's engines, whose
    network is the file that the engine reads; for OpenVINO also its own `.xml`. `size` is the input's side in
    pixels.
    Raises UsageError where the engine is not installed, and what it raises.
    """
    if way in (EAGER, COMPILED):
        return _torch(way, network)
    if not ENGINES[way].installed:
        raise UsageError(f"{ENGINES[way].title} is not installed", remedy=ENGINES[way].install)
    if network.suffix == ".xml":
        return _openvino(network)
    engine: Engine = importlib.import_module(f"octlet.runtime.engines.{way}").load(
        network.read_bytes(), size, THREADS
    )
    return engine


def _torch(way: str, checkpoint: Path) -> Torch:
    if find_spec("torch") is None:
        raise UsageError("PyTorch is not installed", remedy='pip install "octlet[train]"')
    import torch

    from octlet.train.checkpoint import load_run

    torch.set_num_threads(THREADS)
    net = load_run(checkpoint.parent).net
    return Torch(torch.compile(net) if way == COMPILED else net, way)


def _openvino(network: Path) -> Engine:
    """Load OpenVINO's own format, with the settings that Octlet's engine gives it."""
    import openvino

    from octlet.runtime.engines.openvino import OpenVino

    options = {
        "INFERENCE_NUM_THREADS": THREADS,
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    return OpenVino(openvino.Core().compile_model(network, "CPU", options).create_infer_request())


def version(way: str) -> str:
    """Return what computes and its version."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as of

    distribution = "torch" if way in (EAGER, COMPILED) else ENGINES[way].distribution
    try:
        return f"{distribution} {of(distribution)}"
    except PackageNotFoundError:
        return distribution


def main(way: str, network: Path, size: int, scan: Path) -> None:
    engine = load(way, network, size)
    logits = engine.run(normalise(prepare(read_scan(scan), size).pixels[None])).logits
    print(LABELS[int(logits[0].argmax())], flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
