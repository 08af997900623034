"""A network with rounding simulated becomes ONNX with Q/DQ nodes, and the proof that it runs in integers."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from octlet.compress.quant.graph import FakeQuantised
from octlet.core.errors import GateError
from octlet.core.image import normalise
from octlet.data.index import Progress
from octlet.export.layers import merged
from octlet.export.onnx import export_module, load
from octlet.runtime.engine import DEFAULT
from octlet.runtime.engines import onnxruntime

AGREEMENT = 0.995
# Shares of the range of all logits. That every layer is computed right is shown one by one (`layers`); here
# the few values that fall to the other side of an edge are seen again, grown by all the layers behind them.
TIE = 0.025  # about what a logit of a network of 5 % differs by for that alone
LOGIT_BOUND = 0.05  # largest difference of a logit
BATCH = 8
_AFFINE = ("Div", "BatchNormalization")  # what may follow a convolution that is not rounded
# what an optimised graph calls these when they are computed in float
_FLOAT = ("Conv", "FusedConv", "NhwcFusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Add", "Sum")


@dataclass(frozen=True)
class IntegerModel:
    """An ONNX file with Q/DQ nodes and the torch module that it was exported from."""

    onnx: bytes
    converted: nn.Module


def to_qdq(twin: FakeQuantised, size: int) -> IntegerModel:
    """Return `twin` as ONNX: int8 weights, uint8 activations, a Q/DQ pair at every rounding.

    Convolutions carry the names of their layers and residual sums those of their units ("layer1.0.sum"), so
    that what is said of a node can be found in the network.
    """
    converted = twin.converted()
    model = export_module(converted, size)
    _name(model.graph, twin.layers)
    _give_own_constants(model.graph)
    _fold_pads(model.graph)
    in_float = set(twin.layers) - {layer.name for layer in twin.quantised}
    _fold_norms(model.graph, in_float)
    _keep_in_float(model.graph, in_float)
    if size % 2 == 0:
        _fold_stem(model.graph)
    onnx.checker.check_model(model, full_check=True)
    return IntegerModel(model.SerializeToString(deterministic=True), converted)


def _name(graph: Any, layers: Sequence[str]) -> None:
    """Name convolutions in their order; a sum ends the unit whose convolutions came last."""
    unit, pending = "", list(layers)
    for node in graph.node:
        if node.op_type == "Conv":
            node.name = pending.pop(0)
            unit = ".".join(node.name.split(".")[:2])
        elif node.op_type == "Add":
            node.name = f"{unit}.sum"


def _give_own_constants(graph: Any) -> None:
    """Let no two convolutions read weights, scales or zero points from one tensor.

    The exporter writes what is equal once. On x86 without VNNI ONNX Runtime makes every weight a uint8
    (octlet.runtime.engines.onnxruntime), and fails where it meets a tensor again.
    """
    tensors = {each.name: each for each in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}
    taken: set[str] = set()
    for node in [node for node in graph.node if node.op_type == "Conv"]:
        rounding = makers.get(node.input[1])
        if rounding is None or rounding.op_type != "DequantizeLinear":
            continue
        if shared := rounding.output[0] in taken:
            other, rounding = rounding, onnx.NodeProto()
            rounding.CopyFrom(other)
            rounding.name = rounding.output[0] = node.input[1] = f"{node.name}.weight"
        for place, name in enumerate(rounding.input):
            if name in taken:
                constant = graph.initializer.add()
                constant.CopyFrom(tensors[name])
                constant.name = rounding.input[place] = f"{node.name}.weight.{place}"
                tensors[constant.name] = constant
        if shared:  # what is inserted is a copy
            graph.node.insert(list(graph.node).index(node), rounding)
        taken.update((*rounding.input, *rounding.output))


def _fold_pads(graph: Any) -> None:
    """Let a convolution pad what it reads: in torch, where it pads all sides alike, that is a step before it.

    The padding has its input's grid, so that nothing is rounded anew.
    """
    tensors = {each.name: each for each in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}
    for node in [node for node in graph.node if node.op_type == "Conv"]:
        steps = []  # from the convolution's input back to the padding
        name = node.input[0]
        for kind in ("DequantizeLinear", "QuantizeLinear", "Pad"):
            if (maker := makers.get(name)) is None or maker.op_type != kind:
                break
            steps.append(maker)
            name = maker.input[0]
        else:
            pads = onnx.numpy_helper.to_array(tensors[steps[-1].input[1]])
            _set(node, pads=[int(each) for each in (*pads[2:4], *pads[6:8])])
            node.input[0] = name
            for each in steps:
                graph.node.remove(each)


def _set(node: Any, **attributes: list[int]) -> None:
    kept = [each for each in node.attribute if each.name not in attributes]
    del node.attribute[:]
    node.attribute.extend([*kept, *(onnx.helper.make_attribute(*each) for each in attributes.items())])


def _fold_stem(graph: Any) -> None:
    """Let the first convolution, with stride 2 over one channel, have stride 1 over the four of 2x2 pixels.

    7x7 becomes 4x4, and 3x3 becomes 2x2.

    Every product and every sum stays the same, to the bit; what is new are zeros. Integer kernels take
    channels by fours, and gather single ones byte by byte: in ResNet-101 V2 pruned to a quarter the stem
    would be a fifth of the time.
    """
    tensors = {each.name: each for each in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}
    stem = next(node for node in graph.node if node.op_type == "Conv")
    rounding = makers.get(stem.input[1])
    weight = tensors.get(rounding.input[0]) if rounding is not None else None
    if weight is None or weight.dims[1] != 1:  # in float, or of another network
        return
    kernel = onnx.numpy_helper.to_array(weight)
    (pad,) = (each.ints[0] for each in stem.attribute if each.name == "pads")
    side = kernel.shape[-1]
    first, last = (-pad) // 2, (side - 1 - pad) // 2  # of the pixels' pairs that are read
    blocks = last - first + 1
    folded = np.zeros((len(kernel), 4, blocks, blocks), kernel.dtype)
    for row, column in np.ndindex(side, side):
        (down, odd_row), (right, odd_column) = divmod(row - pad, 2), divmod(column - pad, 2)
        folded[:, 2 * odd_row + odd_column, down - first, right - first] = kernel[:, 0, row, column]
    weight.CopyFrom(onnx.numpy_helper.from_array(folded, weight.name))
    before, after = -first, blocks - 1 + first
    _set(stem, kernel_shape=[blocks] * 2, strides=[1, 1], pads=[before, before, after, after])
    for node in graph.node:
        node.input[:] = ["image.folded" if name == onnxruntime.INPUT else name for name in node.input]
    fold = onnx.helper.make_node(
        "SpaceToDepth", [onnxruntime.INPUT], ["image.folded"], "image.folded", blocksize=2
    )
    graph.node.insert(0, fold)
    del graph.value_info[:]  # some have another shape now


def _fold_norms(graph: Any, layers: Collection[str]) -> None:
    """Let each of these convolutions, in float, be one node.

    torchao trains with weights times a factor, a division by it and the batch norm, and does not fold what is
    not rounded; the exporter folds it for weights that are small.
    """
    tensors = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}
    users = {name: node for node in graph.node for name in node.input[:1]}
    for node in [node for node in graph.node if node.op_type == "Conv" and node.name in layers]:
        product, after = makers.get(node.input[1]), users.get(node.output[0])
        factors, gone = ([node.input[1]], []) if product is None else (product.input, [product])
        weight = np.prod(np.broadcast_arrays(*(tensors[name].astype(float) for name in factors)), axis=0)
        bias = tensors[node.input[2]].astype(float) if len(node.input) > 2 else np.zeros(len(weight))
        while after is not None and after.op_type in _AFFINE:
            scale, shift = _affine(after, [tensors[name].astype(float) for name in after.input[1:]])
            weight, bias = weight * scale.reshape(-1, 1, 1, 1), bias * scale + shift
            gone.append(after)
            node.output[0], after = after.output[0], users.get(after.output[0])
        if gone:
            names = [f"{node.name}.{part}.folded" for part in ("weight", "bias")]
            written = zip(names, (weight, bias), strict=True)
            arrays = [onnx.numpy_helper.from_array(each.astype(np.float32), name) for name, each in written]
            graph.initializer.extend(arrays)
            node.input[1:] = names
        for each in gone:
            graph.node.remove(each)
    read = {name for node in graph.node for name in node.input}
    for each in [each for each in graph.initializer if each.name not in read]:
        graph.initializer.remove(each)


def _affine(node: Any, constants: list[NDArray[np.float64]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return scale and shift of each channel of a division, or of a batch norm in eval mode."""
    wide = [each.reshape(-1) for each in constants]
    if node.op_type == "Div":
        return 1 / wide[0], np.zeros_like(wide[0])
    gamma, beta, mean, variance = wide
    (epsilon,) = (each.f for each in node.attribute if each.name == "epsilon")
    scale = gamma / np.sqrt(variance + epsilon)
    return scale, beta - mean * scale


def _keep_in_float(graph: Any, layers: Collection[str]) -> None:
    """Write the scale of these convolutions' inputs once a channel, always the same.

    ONNX Runtime rounds the float weights of a convolution, by one scale a tensor, wherever its input has one
    scale (its WeightBiasQuantization). Where the scale is a vector, it leaves them as they are.
    """
    tensors = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}
    for node in [node for node in graph.node if node.op_type == "Conv" and node.name in layers]:
        maker = makers.get(node.input[0])
        if maker is None or maker.op_type != "DequantizeLinear":
            continue
        group = next((each.i for each in node.attribute if each.name == "group"), 1)
        channels = tensors[node.input[1]].shape[1] * group
        names = [f"{node.name}.input_{part}" for part in ("scale", "zero_point", "dequantized")]
        for name, source in zip(names, maker.input[1:], strict=False):
            wide = np.full(channels, tensors[source])
            graph.initializer.append(onnx.numpy_helper.from_array(wide, name))
        read = onnx.helper.make_node(
            "DequantizeLinear", [maker.input[0], *names[:2]], names[2:], names[2], axis=1
        )
        graph.node.insert(list(graph.node).index(node), read)
        node.input[0] = names[2]


def check_placement(model: bytes, excluded: Sequence[str] = ()) -> dict[str, int]:
    """Read back what ONNX Runtime makes of a Q/DQ model on this machine; return its operators' counts.

    Raises GateError naming every convolution, sum or matrix product that is computed in float, unless its
    layer is in `excluded`.
    """
    # without what blocks the channels of what is left in float, and names it by other names
    graph = merged(model, "NchwcTransformer").graph
    left = [node.name for node in graph.node if node.op_type in _FLOAT]
    wrong = [name for name in left if not any(_is_of(name, layer) for layer in excluded)]
    if wrong:
        rule = f"ONNX Runtime computes {', '.join(wrong[:5])} in float, {len(wrong)} nodes in all"
        raise GateError(rule, remedy="a layer that is meant to is named with 'octlet quantize --exclude'")
    return dict(Counter(node.op_type for node in graph.node))


def _is_of(node: str, layer: str) -> bool:
    """Tell whether an optimised node came from a layer: fusions add to the name, after an underscore."""
    return node == layer or node.startswith(layer + "_")


@dataclass(frozen=True)
class Parity:
    """How near two ways of computing the same integer network are, on the same images.

    Attributes:
        images: how many.
        agreement: share that gets the same label, or one that stood within `TIE` of it: which of two equals
            comes first is decided by the order of a sum, and proves nothing.
        same: share that gets the same label.
        logits: largest difference of a logit, as a share of the range of all.
    """

    images: int
    agreement: float
    same: float
    logits: float

    def check(self, what: str) -> None:
        """Raise GateError where labels or logits differ by more than `AGREEMENT` and `LOGIT_BOUND` allow."""
        if not (self.agreement >= AGREEMENT and self.logits <= LOGIT_BOUND):  # or NaN would pass
            raise GateError(
                f"{what} agree on {self.agreement:.2%} of {self.images} images, logits differ by up to "
                f"{self.logits:.1%} of their range; {AGREEMENT:.1%} and {LOGIT_BOUND:.0%} are asked for"
            )


def check_integers(
    model: IntegerModel,
    twin: FakeQuantised,
    pixels: NDArray[np.uint8],
    progress: Progress = iter,
    others: Mapping[str, bytes] = MappingProxyType({}),
) -> dict[str, Any]:
    """Compute the same images in three ways or more: rounding simulated, converted, and in engines' integers.

    Args:
        model: of `to_qdq`.
        twin: what it was made from.
        pixels: uint8 (N, S, S).
        progress: a wrapper of a counting iterable.
        others: engine -> the bytes of its file, beside ONNX Runtime.

    Returns:
        {"converted": `Parity` of simulated against converted, "onnxruntime": of simulated against ONNX
        Runtime, and so on for `others`}, as dicts.

    Raises GateError where they are too far apart.
    """
    files = {DEFAULT: model.onnx, **others}
    engines = {name: load(name, data, pixels.shape[-1]) for name, data in files.items()}
    found: dict[str, list[NDArray[np.float32]]] = {name: [] for name in ("simulated", "converted", *engines)}
    twin.eval()
    with torch.inference_mode():
        for k in progress(range(-(-len(pixels) // BATCH))):
            batch = normalise(pixels[k * BATCH : (k + 1) * BATCH])
            scans = torch.from_numpy(batch)
            found["simulated"].append(twin(scans).logits.numpy())
            found["converted"].append(model.converted(scans)[0].numpy())
            for name, engine in engines.items():
                found[name].append(engine.run(batch).logits)
    whole = {key: np.concatenate(parts) for key, parts in found.items()}
    result = {}
    for key in ("converted", *engines):
        parity = parity_of(whole["simulated"], whole[key])
        parity.check(f"the simulated and the {key} network")
        result[key] = asdict(parity)
    return result


def parity_of(expected: NDArray[np.float32], actual: NDArray[np.float32]) -> Parity:
    """Compare logits (N, K) with logits (N, K)."""
    spread = float(expected.max() - expected.min())
    chosen = np.take_along_axis(expected, actual.argmax(1)[:, None], 1)[:, 0]
    lead = expected.max(1) - chosen  # 0 where the label is the same
    largest = float(np.abs(expected - actual).max())
    same = expected.argmax(1) == actual.argmax(1)
    return Parity(
        images=len(expected),
        agreement=float((lead <= TIE * spread).mean()),
        same=float(same.mean()),
        logits=largest / spread if spread else float(largest > 0),
    )
