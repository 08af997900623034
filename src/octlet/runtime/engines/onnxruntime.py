"""ONNX Runtime on the CPU."""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octlet.core.errors import ModelFileError
from octlet.runtime.engine import INPUT, OUTPUTS, Outputs, first_line
from octlet.runtime.machine import read_machine

__all__ = ["INPUT", "OUTPUTS", "OnnxRuntime", "load"]
_REMEDY = "export the model again"

# Its wheels report their use to their maker from the import on; a machine with patients' scans tells nobody.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# Weights become uint8 when they are loaded, for sums in 32 bits; with VNNI too, where that only costs time.
_EXACT = "session.x64quantprecision"
_FATAL = 4  # ONNX Runtime's quietest level: what goes wrong is raised, and told once


class OnnxRuntime:
    """An `octlet.runtime.engine.Engine`."""

    name = "onnxruntime"

    def __init__(self, session: Any) -> None:
        self._session = session

    def run(self, batch: NDArray[np.float32]) -> Outputs:
        """Compute float32 (N, 1, S, S); ModelFileError where ONNX Runtime refuses."""
        try:
            results = self._session.run(list(OUTPUTS), {INPUT: batch})
        except _faults() as error:
            raise ModelFileError(f"ONNX Runtime cannot compute this network: {first_line(error)}") from error
        return Outputs(*results)


def load(model: bytes, size: int, threads: int) -> OnnxRuntime:
    """Build a session from an ONNX file's bytes, for inputs of side `size`.

    Raises:
        ModelFileError: not a network that ONNX Runtime can compute, or of other inputs or outputs than
            float32 image (N, 1, S, S) -> logits, cam, embedding.
    """
    import onnxruntime as ort

    options = session_options(threads)
    try:
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except _faults() as error:
        raise ModelFileError(
            f"not a network for ONNX Runtime: {first_line(error)}", remedy=_REMEDY
        ) from error
    _check_interface(session, size)
    return OnnxRuntime(session)


def session_options(threads: int) -> Any:
    """Return how networks are computed here, by so many threads; 0: as many as there are cores."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL
    if read_machine().clips_sums:
        options.add_session_config_entry(_EXACT, "1")
    return options


def _check_interface(session: Any, size: int) -> None:
    inputs = [(each.name, each.type, each.shape[1:]) for each in session.get_inputs()]
    if inputs != [(INPUT, "tensor(float)", [1, size, size])] or isinstance(
        session.get_inputs()[0].shape[0], int
    ):
        rule = f"the network's input is not float32 {INPUT} (N, 1, {size}, {size})"
        raise ModelFileError(rule, remedy=_REMEDY)
    if tuple(each.name for each in session.get_outputs()) != OUTPUTS:
        raise ModelFileError(f"the network's outputs are not {', '.join(OUTPUTS)}", remedy=_REMEDY)


def _faults() -> tuple[type[Exception], ...]:
    """Return what ONNX Runtime raises: its own classes, which share no base but Exception, and two others."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError, ValueError)
