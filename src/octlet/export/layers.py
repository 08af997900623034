"""The proof that ONNX Runtime computes each layer of an integer network as its Q/DQ nodes say.

Of whole networks it proves little: where one value of an early layer falls to the other side of an edge
between two steps, the layers behind it round otherwise too, and a small network's answers move by a percent
of their range. So every layer is given the same integers here, and its own are compared.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from octlet.core.errors import GateError
from octlet.runtime.engine import INPUT
from octlet.runtime.engines.onnxruntime import session_options

# Share of all values that may fall to the other side of an edge: a few in a million, but many sums of two
# activations lie exactly on one where their scales have a simple ratio.
FEW = 1e-3
_GIVEN = "given."
_REORDERING = ("NchwcTransformer", "NhwcTransformer")  # tensors get other names and another order


@dataclass(frozen=True)
class LayerParity:
    """How many integers that the layers write are others than the Q/DQ nodes' arithmetic in float gives.

    Attributes:
        layers: how many write integers.
        values: how many integers they wrote.
        other: how many of them are others.
        steps: by how many steps at most.
        worst: the layer that is off the most, or of whose values the largest share is; "" if none is.
    """

    layers: int
    values: int
    other: int
    steps: int
    worst: str

    def check(self) -> None:
        """Raise GateError where a value is off by more than a step, or more by one than edges explain."""
        if self.steps > 1 or self.other > FEW * self.values:
            raise GateError(
                f"ONNX Runtime's integers are not those of the file: {self.other} of {self.values} values of "
                f"{self.layers} layers, given the same integers, are others, by up to {self.steps} steps, "
                f"most in {self.worst}; one step in {FEW:.1%} is allowed",
                remedy="another version of onnxruntime may have the kernel right",
            )


def check_layers(model: bytes, batch: NDArray[np.float32]) -> LayerParity:
    """Give every layer of a Q/DQ model what it reads, and compare what it writes.

    Args:
        model: of `octlet.export.qdq.to_qdq`.
        batch: float32 (N, 1, S, S), prepared scans.

    Raises GateError; see `LayerParity.check`.
    """
    plain = onnx.load_from_string(model)
    names = [node.output[0] for node in plain.graph.node if node.op_type == "QuantizeLinear"]
    wanted = _computed(_writing(plain, names), {INPUT: batch}, names)
    engines = merged(model, *_REORDERING)
    given = _give(engines.graph, wanted)
    nodes = [node for node in engines.graph.node if node.output[0] in wanted]
    written = [node.output[0] for node in nodes]
    found = _computed(_writing(engines, written), given | {INPUT: batch}, written)
    off = {node.name: found[node.output[0]].astype(int) - wanted[node.output[0]] for node in nodes}
    steps = {name: int(np.abs(each).max()) for name, each in off.items()}
    worst = max(steps, key=lambda name: (steps[name], float((off[name] != 0).mean())))
    parity = LayerParity(
        layers=len(off),
        values=sum(each.size for each in off.values()),
        other=sum(int(np.count_nonzero(each)) for each in off.values()),
        steps=steps[worst],
        worst=worst if steps[worst] else "",
    )
    parity.check()
    return parity


def merged(model: bytes, *without: str) -> Any:
    """Return what ONNX Runtime makes of a model on this machine, `without` some of its optimisers."""
    import onnxruntime as ort

    options = session_options(threads=0)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "merged.onnx"
        options.optimized_model_filepath = str(place)
        ort.InferenceSession(
            model, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(without)
        )
        return onnx.load(place)


def _give(graph: Any, values: dict[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.uint8]]:
    """Let every node read `values` from outside where it read another's; return the inputs that are new."""
    inputs = {}
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in values:
                inputs[_GIVEN + name] = values[name]
                node.input[place] = _GIVEN + name
    for name, array in inputs.items():
        graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, array.shape))
    return inputs


def _writing(model: Any, names: list[str]) -> bytes:
    """Return the model with these tensors as its outputs."""
    del model.graph.output[:]
    for name in names:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None))
    written: bytes = model.SerializeToString()
    return written


def _computed(
    model: bytes, inputs: dict[str, NDArray[Any]], names: list[str]
) -> dict[str, NDArray[np.uint8]]:
    """Compute a model node by node, nothing merged."""
    import onnxruntime as ort

    options = session_options(threads=0)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    read = {each.name: inputs[each.name] for each in session.get_inputs()}
    return dict(zip(names, session.run(names, read), strict=True))
