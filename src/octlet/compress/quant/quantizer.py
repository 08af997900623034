"""Where a residual network is rounded: after every operation that ONNX Runtime can do in integers."""

from collections.abc import Iterable

import torch
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
    SharedQuantizationSpec,
)

from octlet.compress.config import is_excluded
from octlet.compress.quant.fakequant import ActivationFakeQuant, WeightFakeQuant

_ATEN = torch.ops.aten
CONVOLUTIONS = (_ATEN.conv2d.default,)
_NORMS = (_ATEN.batch_norm.default,)
_RECTIFIERS = (_ATEN.relu.default, _ATEN.relu6.default)
_SUMS = (_ATEN.add.Tensor,)
_PASSING = (_ATEN.max_pool2d.default, _ATEN.pad.default)  # zeros are on every grid


class OctletQuantizer(Quantizer):  # type: ignore[misc]
    """Annotates convolution (batch norm, ReLU), residual sum (ReLU), max-pool and padding, in all families.

    Inputs and outputs of these are uint8, weights int8 by output channel. A max-pool and a padding have their
    input's scale.
    The final linear layer is a 1x1 convolution here (see `octlet.models.resnet`). What follows the class
    activation map and the last feature map, two means, stays in float: they are the network's outputs.
    """

    def __init__(self, weights_bits: int = 8, exclude: Iterable[str] = ()) -> None:
        super().__init__()
        self.exclude = tuple(exclude)
        self.activation = QuantizationSpec(
            dtype=torch.uint8,
            quant_min=0,
            quant_max=255,
            qscheme=torch.per_tensor_affine,
            observer_or_fake_quant_ctr=ActivationFakeQuant.with_args(),
        )
        limit = 2 ** (weights_bits - 1) - 1
        self.weight = QuantizationSpec(
            dtype=torch.int8,
            quant_min=-limit,
            quant_max=limit,
            qscheme=torch.per_channel_symmetric,
            ch_axis=0,
            observer_or_fake_quant_ctr=WeightFakeQuant.with_args(bits=weights_bits),
        )

    def annotate(self, model: GraphModule) -> GraphModule:
        """Mark the nodes of an exported graph."""
        for node in model.graph.nodes:
            if node.target in CONVOLUTIONS:
                if not is_excluded(layer_name(node), self.exclude):
                    self._mark(node, {node.args[0]: self.activation, node.args[1]: self.weight}, _NORMS)
            elif node.target in _SUMS:
                self._mark(node, dict.fromkeys(node.args[:2], self.activation), ())
            elif node.target in _PASSING:
                source = node.args[0]
                shared = SharedQuantizationSpec((source, node))
                node.meta["quantization_annotation"] = QuantizationAnnotation(
                    input_qspec_map={source: self.activation}, output_qspec=shared, _annotated=True
                )
        return model

    def _mark(self, node: Node, inputs: dict[Node, QuantizationSpec], norms: tuple[object, ...]) -> None:
        """Annotate `node` and what is fused with it; the last of them carries the output's specification."""
        chain = [node]
        for kind in (norms, _RECTIFIERS):
            users = list(chain[-1].users)
            if len(users) == 1 and users[0].target in kind:
                chain.append(users[0])
        for each in chain:
            each.meta["quantization_annotation"] = QuantizationAnnotation(_annotated=True)
        chain[0].meta["quantization_annotation"].input_qspec_map = inputs
        chain[-1].meta["quantization_annotation"].output_qspec = self.activation

    def validate(self, model: GraphModule) -> None:
        """Do nothing: placement is proven on the graph that the engine runs."""


def layer_name(convolution: Node) -> str:
    """Return the name of the module whose weight an exported convolution reads: "layer1.0.conv1"."""
    pending = [convolution.args[1]]
    while pending:
        node = pending.pop()
        if isinstance(node, Node):
            if node.op == "get_attr":
                return str(node.target).removesuffix(".weight")
            pending.extend(node.all_input_nodes)
    raise ValueError(f"{convolution} reads no parameter")
