"""OpenVINO on the CPU, from the same ONNX file as ONNX Runtime."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octlet.core.errors import ModelFileError
from octlet.runtime.engine import INPUT, OUTPUTS, Outputs, one_by_one

_REMEDY = "export the model again"


class OpenVino:
    """An `octlet.runtime.engine.Engine`."""

    name = "openvino"

    def __init__(self, request: Any) -> None:
        self._request = request

    def run(self, batch: NDArray[np.float32]) -> Outputs:
        """Compute float32 (N, 1, S, S), scan by scan; ModelFileError where OpenVINO refuses."""
        try:
            return one_by_one(self._one, batch)
        except (RuntimeError, ValueError) as error:
            raise ModelFileError(f"OpenVINO cannot compute this network: {_line(error)}") from error

    def _one(self, scan: NDArray[np.float32]) -> Any:
        results = self._request.infer({INPUT: scan})
        return tuple(results[name] for name in OUTPUTS)  # copies, unless it is asked to share


def load(model: bytes, size: int, threads: int) -> OpenVino:
    """Compile an ONNX file's bytes for one scan of side `size`: with a fixed shape it plans once.

    Its numbers stay float32: left to itself it takes 16-bit floats where the CPU has them, and then answers
    something else than the network that was evaluated.

    Raises:
        ModelFileError: not a network that OpenVINO can compute, or of other inputs or outputs than float32
            image (N, 1, S, S) -> logits, cam, embedding.
    """
    import openvino

    options = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    try:
        core = openvino.Core()
        network = core.read_model(io.BytesIO(model))
        _check_interface(network, size)
        network.reshape([1, 1, size, size])
        request = core.compile_model(network, "CPU", options).create_infer_request()
    except (RuntimeError, ValueError) as error:
        raise ModelFileError(f"not a network for OpenVINO: {_line(error)}", remedy=_REMEDY) from error
    return OpenVino(request)


def _check_interface(network: Any, size: int) -> None:
    from openvino import PartialShape, Type

    inputs = [(each.any_name, each.element_type, each.partial_shape) for each in network.inputs]
    if inputs != [(INPUT, Type.f32, PartialShape([-1, 1, size, size]))]:
        rule = f"the network's input is not float32 {INPUT} (N, 1, {size}, {size})"
        raise ModelFileError(rule, remedy=_REMEDY)
    if tuple(each.any_name for each in network.outputs) != OUTPUTS:
        raise ModelFileError(f"the network's outputs are not {', '.join(OUTPUTS)}", remedy=_REMEDY)


def _line(error: Exception) -> str:
    """Return what OpenVINO means: its first lines name its own source files."""
    lines = [line for line in str(error).splitlines() if line and not line.startswith("Exception from")]
    return (lines or [type(error).__name__])[0][:200]
