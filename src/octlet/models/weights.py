"""Load pretrained weights from safetensors, and say which arrived and which are fresh."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from octlet.core.errors import InputError
from octlet.models.resnet import ResNet


@dataclass(frozen=True)
class LoadReport:
    """Which of a network's tensors came from a file.

    Attributes:
        loaded: keys filled from the file.
        fresh: keys of the network that the file does not hold, or holds in another shape.
        unused: keys of the file that the network has no place for.
    """

    loaded: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        def named(keys: tuple[str, ...]) -> str:
            shown = ", ".join(keys[:4]) + (", ..." if len(keys) > 4 else "")
            return f"{len(keys)}" + (f" ({shown})" if keys else "")

        return f"{len(self.loaded)} tensors loaded, fresh: {named(self.fresh)}, unused: {named(self.unused)}"


def load_pretrained(net: ResNet, path: str | Path) -> LoadReport:
    """Fill `net` from a safetensors file of float tensors under torchvision's or the V2 file's key names.

    A stem of three input channels is folded to one (`fold_stem`); half-precision tensors become float32;
    V2's per-channel scales (C,) become depthwise kernels (C, 1, 1, 1). A head of another class count is left
    fresh.

    Raises:
        InputError: no such file, not safetensors, or not one of its tensors fits.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError("no such weights file", path=file, remedy="check the path")
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise InputError(
            f"not a safetensors file: {error}", path=file, remedy="convert the weights to safetensors"
        ) from error
    state = net.state_dict()
    ready = {key: _fit(tensor.float(), state[key]) for key, tensor in tensors.items() if key in state}
    matching = {key: tensor for key, tensor in ready.items() if tensor.shape == state[key].shape}
    loaded = tuple(sorted(matching))
    if not loaded:
        remedy = f"take the weights of a {net.spec.family} network"
        raise InputError("none of its tensors fits this network", path=file, remedy=remedy)
    net.load_state_dict(matching, strict=False)
    counters = {key for key in state if key.endswith("num_batches_tracked")}
    fresh = tuple(sorted(set(state) - set(loaded) - counters))
    return LoadReport(loaded, fresh, tuple(sorted(set(tensors) - set(loaded))))


def _fit(tensor: Tensor, like: Tensor) -> Tensor:
    if tensor.ndim == 4 and tensor.shape[1] == 3 and like.shape[1] == 1:
        return fold_stem(tensor)
    if tensor.ndim == 1 and like.ndim == 4:
        return tensor[:, None, None, None]
    return tensor


def fold_stem(weight: Tensor) -> Tensor:
    """Fold a stem kernel (O, 3, k, k) for equal channels to (O, 1, k, k): convolution is linear, so the sum
    over the input channels gives the same output for a gray image repeated three times.
    """  # noqa: D205
    return torch.sum(weight, dim=1, keepdim=True)
