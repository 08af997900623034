"""LiteRT, formerly TensorFlow Lite, with XNNPACK on the CPU.

A file has one signature: float32 `image` (1, 1, S, S) in, float32 `logits`, `cam` and `embedding` out, in the
shapes of `octlet.runtime.engine.Outputs` with N = 1. Its operations are LiteRT's own.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from octlet.core.errors import ModelFileError
from octlet.runtime.engine import INPUT, OUTPUTS, Outputs, first_line, one_by_one

_REMEDY = "export the model again"


class LiteRt:
    """An `octlet.runtime.engine.Engine`."""

    name = "litert"

    def __init__(self, interpreter: Any, image: int, outputs: tuple[int, ...]) -> None:
        self._interpreter = interpreter
        self._image = image
        self._outputs = outputs

    def run(self, batch: NDArray[np.float32]) -> Outputs:
        """Compute float32 (N, 1, S, S), scan by scan; ModelFileError where LiteRT refuses."""
        try:
            return one_by_one(self._one, batch)
        except (RuntimeError, ValueError) as error:
            raise ModelFileError(f"LiteRT cannot compute this network: {first_line(error)}") from error

    def _one(self, scan: NDArray[np.float32]) -> Any:
        self._interpreter.set_tensor(self._image, scan)
        self._interpreter.invoke()
        return tuple(self._interpreter.get_tensor(index) for index in self._outputs)  # copies


def load(model: bytes, size: int, threads: int) -> LiteRt:
    """Build an interpreter from a .tflite file's bytes, for inputs of side `size`.

    Raises ModelFileError: not a network that LiteRT can compute, or of another interface than this module's.
    """
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_content=model, num_threads=threads)
        interpreter.allocate_tensors()
        signature = interpreter.get_signature_runner()
    except (RuntimeError, ValueError) as error:
        raise ModelFileError(f"not a network for LiteRT: {first_line(error)}", remedy=_REMEDY) from error
    inputs, outputs = signature.get_input_details(), signature.get_output_details()
    _check_interface(inputs, outputs, size)
    return LiteRt(interpreter, inputs[INPUT]["index"], tuple(outputs[name]["index"] for name in OUTPUTS))


def _check_interface(inputs: dict[str, Any], outputs: dict[str, Any], size: int) -> None:
    found = {name: (tuple(each["shape"]), each["dtype"]) for name, each in inputs.items()}
    if found != {INPUT: ((1, 1, size, size), np.float32)}:
        rule = f"the network's input is not float32 {INPUT} (1, 1, {size}, {size})"
        raise ModelFileError(rule, remedy=_REMEDY)
    if outputs.keys() != set(OUTPUTS):
        raise ModelFileError(f"the network's outputs are not {', '.join(OUTPUTS)}", remedy=_REMEDY)
