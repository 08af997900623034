"""From a network in torch to ONNX, and the proof that both compute the same."""

import contextlib
import importlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from octlet.core.bundle import Tolerances
from octlet.core.errors import GateError, ModelFileError
from octlet.core.labels import LABELS
from octlet.models.resnet import ResNet
from octlet.runtime.engine import DEFAULT, ENGINES, Engine, Outputs
from octlet.runtime.engines import onnxruntime
from octlet.runtime.verify import compare

RANDOM_INPUTS = 8


def to_onnx(net: ResNet, size: int) -> bytes:
    """Return `net` in eval mode as a checked ONNX model: image (N, 1, S, S) -> logits, cam, embedding.

    The batch size N is free. What torch records of the exporting machine (source paths, stack traces) is
    taken out, so that equal networks give equal bytes wherever they are exported.

    Raises:
        ModelFileError: a network of other input channels or classes than Octlet's.
    """
    if (net.spec.channels, net.spec.classes) != (1, len(LABELS)):
        rule = f"the network has {net.spec.channels} input channels and {net.spec.classes} classes"
        raise ModelFileError(rule, remedy=f"a model file takes 1 channel and {len(LABELS)} classes")
    model = export_module(net.eval(), size)
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def export_module(module: nn.Module, size: int) -> Any:
    """Return a module that maps scans (N, 1, S, S) to `Outputs` as ONNX, stripped, not yet checked."""
    example = torch.zeros(2, 1, size, size)  # two: a batch of one would be taken for a constant
    with _quiet():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            external_data=False,
            verbose=False,  # its progress would stand on stdout, before our JSON
            input_names=[onnxruntime.INPUT],
            output_names=list(onnxruntime.OUTPUTS),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    if program is None:  # only torch's older exporter does so
        raise GateError("torch exported nothing")
    model = program.model_proto
    _strip(model)
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's warnings about optional packages and about itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _strip(model: Any) -> None:
    graph = model.graph
    parts = [model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info]
    for part in parts:
        del part.metadata_props[:]
        part.doc_string = ""


def torch_outputs(net: nn.Module, batch: NDArray[np.float32]) -> list[Outputs]:
    """Compute float32 (N, 1, S, S) in torch; one `Outputs` of N = 1 for each input."""
    with torch.inference_mode():
        logits, cam, embedding = (each.numpy() for each in net.eval()(torch.from_numpy(batch)))
    rows = (slice(i, i + 1) for i in range(len(batch)))
    return [Outputs(logits[row], cam[row], embedding[row]) for row in rows]


def load(engine: str, model: bytes, size: int) -> Engine:
    """Load a network's bytes into an engine, with as many threads as torch has."""
    module = importlib.import_module(f"octlet.runtime.engines.{engine}")
    loaded: Engine = module.load(model, size, torch.get_num_threads())
    return loaded


def check_parity(
    model: bytes,
    net: nn.Module,
    golden: NDArray[np.float32],
    tolerances: Tolerances,
    *,
    noise: int = RANDOM_INPUTS,
    engine: str = DEFAULT,
) -> dict[str, float]:
    """Compare torch with an engine on the golden inputs and on inputs of uniform noise.

    Args:
        model: the bytes of the engine's file.
        net: what they were exported from.
        golden: float32 (N, 1, S, S) in -1..1.
        tolerances: the largest differences, as shares of the golden outputs' ranges.
        noise: how many inputs of noise.
        engine: its name.

    Returns:
        For each output the largest absolute difference, as a share of the range of torch's values.

    Raises:
        GateError: a larger difference, or another label.
    """
    size = golden.shape[-1]
    random = np.random.default_rng(0).uniform(-1, 1, (noise, 1, size, size)).astype(np.float32)
    batch = np.concatenate([golden, random])
    expected = torch_outputs(net, batch)
    loaded, title = load(engine, model, size), ENGINES[engine].title
    actual = [loaded.run(batch[i : i + 1]) for i in range(len(batch))]
    differences = compare(expected, actual)
    for name, difference in differences.items():
        limit: float = getattr(tolerances, name)
        if not difference <= limit:
            raise GateError(
                f"{title}'s {name} are {difference:.1e} of their range from torch's, over {limit:.0e}"
            )
    if _labels(expected) != _labels(actual):
        raise GateError(f"{title} gives an input another label than torch")
    return differences


def _labels(outputs: Sequence[Outputs]) -> list[int]:
    return [int(each.logits.argmax()) for each in outputs]
