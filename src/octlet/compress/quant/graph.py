"""A float network, its twin with rounding simulated, and the integer network that the twin becomes."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_qat_pt2e

from octlet.compress.config import QuantConfig, is_excluded
from octlet.compress.quant.fakequant import ActivationFakeQuant, Watch, WeightFakeQuant
from octlet.compress.quant.quantizer import CONVOLUTIONS, OctletQuantizer, layer_name
from octlet.core.errors import UsageError
from octlet.models.resnet import Outputs, ResNet

_ATEN = torch.ops.aten
_TRAINING = 5  # which argument of aten.batch_norm says whether it trains; two on stands its epsilon
_EPSILON = 1e-5
_BIAS = 2  # which argument of aten.conv2d is the bias


@dataclass(frozen=True)
class Layer:
    """A quantised convolution: its name, and what rounds its weights and the activation that it writes."""

    name: str
    weights: WeightFakeQuant
    output: ActivationFakeQuant


class FakeQuantised(nn.Module):
    """A network with rounding simulated; maps scans (N, 1, S, S) to `Outputs`, as the float network does.

    Attributes:
        graph: the prepared graph.
        layers: names of all convolutions, in the order of computation, the final linear layer last.
        quantised: those of them that are rounded.
    """

    def __init__(self, net: ResNet, config: QuantConfig, size: int) -> None:
        """Prepare a copy of `net`; ranges are unknown until calibrated or loaded.

        Raises UsageError for an exclusion that names no layer.
        """
        super().__init__()
        with _hushed():
            graph = _exported(net, size)
            self.layers = tuple(layer_name(node) for node in _convolutions(graph))
            _check_exclusions(config.exclude, self.layers)
            graph = prepare_qat_pt2e(graph, OctletQuantizer(config.weights_bits, config.exclude))
        self.graph = graph
        self.quantised = tuple(self._find_layers(graph, config.exclude))
        self.frozen, self.size = False, size

    def _find_layers(self, graph: GraphModule, exclude: tuple[str, ...]) -> Iterator[Layer]:
        for name, node in zip(self.layers, _convolutions(graph), strict=True):
            if not is_excluded(name, exclude):
                weights = graph.get_submodule(str(node.all_input_nodes[1].target))
                output = graph.get_submodule(str(_rounding_after(node).target))
                assert isinstance(weights, WeightFakeQuant)  # noqa: S101  (what the quantizer asked for)
                assert isinstance(output, ActivationFakeQuant)  # noqa: S101
                yield Layer(name, weights, output)

    def forward(self, scans: Tensor) -> Outputs:
        """Map scans (N, 1, S, S) to `Outputs`."""
        return Outputs(*self.graph(scans))

    def train(self, mode: bool = True) -> "FakeQuantised":
        """Let batch norms that are not frozen use the batch's figures (or, with False, the running ones).

        Without training no range follows the scans, whatever is watched: validation leaves nothing behind.
        """
        self.training = mode
        changed = False
        for node in self.graph.graph.nodes:
            if node.target is _ATEN.batch_norm.default and node.args[_TRAINING] != (mode and not self.frozen):
                node.args = (*node.args[:_TRAINING], mode and not self.frozen, *node.args[_TRAINING + 1 :])
                changed = True
        if changed:
            self.graph.recompile()
        for each in self.activations():
            each.training = mode
        return self

    def freeze_batch_norm(self) -> None:
        """Let batch norms use their running figures from now on, in training too."""
        if not self.frozen:
            self.frozen = True
            self.train(self.training)

    def activations(self) -> list[ActivationFakeQuant]:
        """Return what rounds activations, each once."""
        return [each for each in self.modules() if isinstance(each, ActivationFakeQuant)]

    def watch(self, what: Watch) -> None:
        """Set what the observers of activations do."""
        for each in self.activations():
            each.watch = what

    def round(self, on: bool) -> None:
        """Switch all rounding on or off."""
        for each in self.modules():
            if isinstance(each, ActivationFakeQuant | WeightFakeQuant):
                each.rounds = on

    def lighten(self) -> None:
        """Make the training of convolution and batch norm cheaper; the result cannot be converted.

        torchao scales the weights by the batch norm's factor before rounding and divides the output by it.
        Without rounding the two cancel exactly, with it up to the rounding's residual, so that the factor is
        given no gradient, and the division, as a product with a constant, can stay in the arithmetic of the
        convolution.
        """
        graph = self.graph.graph
        for node in list(graph.nodes):
            if node.target is not _ATEN.div.Tensor or node.all_input_nodes[0].target not in CONVOLUTIONS:
                continue
            factor = node.all_input_nodes[1].all_input_nodes[0]
            with graph.inserting_after(factor):
                constant = graph.call_function(_ATEN.detach.default, (factor,))
            factor.replace_all_uses_with(
                constant, delete_user_cb=lambda user, keep=constant: user is not keep
            )
            node.target = _rescaled
        graph.lint()
        self.graph.recompile()

    @torch.no_grad()
    def round_biases(self) -> None:
        """Round what is added to every convolution's sums, as engines do when they load a network.

        A 32-bit sum counts in steps of input times weight, and a bias is a whole number of them. Left in
        float here, biases moved one value in a thousand of every layer by a step, and by the last layer the
        answers by about as much as all rounding does.
        """
        self._settle()
        for node in _convolutions(self.graph):
            read, weights = (_called(self.graph, each) for each in node.args[:2])
            offset = _offset(self.graph, node)
            if read is not None and weights is not None and offset is not None:
                scales = weights.calculate_qparams()[0]
                steps = read.calculate_qparams()[0].to(scales.device) * scales
                values, added = offset
                values.add_((added / steps).round_() * steps - added)

    def converted(self) -> GraphModule:
        """Return the integer network, in eval mode: each rounding an explicit quantise-dequantise pair."""
        self._settle()
        with torch.no_grad(), _hushed():
            graph: GraphModule = convert_pt2e(copy.deepcopy(self.graph))
        return graph

    @torch.no_grad()
    def _settle(self) -> None:
        """Round in eval mode, and let every weight have its scale by a pass."""
        self.eval()
        self.watch(Watch.NOTHING)
        self.round(True)
        parameter = next(self.parameters())
        self(torch.zeros(1, 1, self.size, self.size, device=parameter.device))


def _exported(net: ResNet, size: int) -> GraphModule:
    example = torch.zeros(2, net.spec.channels, size, size)
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(copy.deepcopy(net).train(), (example,), dynamic_shapes=shapes)
    module = program.module()
    assert isinstance(module, GraphModule)  # noqa: S101  (torch types it as any module)
    _give_torchaos_epsilon(module)
    return module


@torch.no_grad()
def _give_torchaos_epsilon(graph: GraphModule) -> None:
    """Let every batch norm add 1e-5 to the variance, and compute what it computed.

    torchao takes no other number into its fused pattern. A convolution whose output is s times as large has a
    variance s^2 times as large: with s^2 = 1e-5 / epsilon nothing changes, in training either.
    """
    for norm in [node for node in graph.graph.nodes if node.target is _ATEN.batch_norm.default]:
        shrink = (_EPSILON / norm.args[_TRAINING + 2]) ** 0.5
        if shrink == 1:
            continue
        convolution, _, _, mean, variance = norm.args[:_TRAINING]
        for tensor in (*convolution.args[1:3], mean):  # a bias is None here, or one of the three
            if isinstance(tensor, Node):
                _tensor_of(graph, tensor).mul_(shrink)
        _tensor_of(graph, variance).mul_(shrink**2)
        norm.args = (*norm.args[: _TRAINING + 2], _EPSILON, *norm.args[_TRAINING + 3 :])
    graph.recompile()


def _tensor_of(graph: GraphModule, node: Node) -> Tensor:
    owner, _, name = str(node.target).rpartition(".")
    tensor: Tensor = getattr(graph.get_submodule(owner), name)
    return tensor


def _called(graph: GraphModule, node: object) -> ActivationFakeQuant | WeightFakeQuant | None:
    """Return the rounding that `node` calls, if it is one."""
    if not isinstance(node, Node) or node.op != "call_module":
        return None
    module = graph.get_submodule(str(node.target))
    return module if isinstance(module, ActivationFakeQuant | WeightFakeQuant) else None


def _offset(graph: GraphModule, convolution: Node) -> tuple[Tensor, Tensor] | None:
    """Return a parameter (C,) and what it adds to a convolution's sums: a bias, or a batch norm's shift."""
    bias = (*convolution.args, None)[_BIAS]
    if isinstance(bias, Node):
        values = _tensor_of(graph, bias)
        return values, values
    norm = next(iter(next(iter(convolution.users)).users))  # behind torchao's division
    if norm.target is not _ATEN.batch_norm.default:
        return None
    gamma, beta, mean, variance = (_tensor_of(graph, each) for each in norm.args[1:_TRAINING])  # type: ignore[arg-type]
    return beta, beta - mean * gamma / (variance + _EPSILON).sqrt()  # the weights were multiplied before


def _convolutions(graph: GraphModule) -> list[Node]:
    return [node for node in graph.graph.nodes if node.target in CONVOLUTIONS]


def _rounding_after(node: Node) -> Node:
    """Return the call that rounds what `node`, through batch norm and ReLU, writes."""
    while node.op != "call_module":
        (node,) = (user for user in node.users if user.op in ("call_module", "call_function"))
    return node


def _check_exclusions(patterns: tuple[str, ...], layers: tuple[str, ...]) -> None:
    for pattern in patterns:
        if not any(is_excluded(layer, (pattern,)) for layer in layers):
            raise UsageError(
                f"no layer is called '{pattern}'",
                remedy=f"layers are {', '.join(layers[:4])} ... {layers[-1]}",
            )


def _rescaled(x: Tensor, factor: Tensor) -> Tensor:
    return x * (1 / factor).to(x.dtype)


@contextmanager
def _hushed() -> Iterator[None]:
    """Silence the deprecation warnings that torch and torchao raise about each other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
