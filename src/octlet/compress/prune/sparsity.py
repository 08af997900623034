"""Zeros in place: global magnitude pruning of single weights, and what zeros are worth in a file."""

import io
import zipfile
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from octlet.models.resnet import ResNet


def kernels(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights that may become zero: of convolutions and the linear layer, not per-channel ones."""
    for name, module in net.named_modules():
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1):
            yield f"{name}.weight", module.weight


def sparsity_of(net: nn.Module) -> float:
    """Return the share of zeros among all `kernels`, in 0..1."""
    zeros = total = 0
    for _, weight in kernels(net):
        zeros += int((weight == 0).sum())
        total += weight.numel()
    return zeros / total


@torch.no_grad()
def sparsify(net: ResNet, sparsity: float) -> None:
    """Set the weights of the smallest magnitude in the whole network to zero, in place.

    Args:
        net: changed; what is zero stays so.
        sparsity: share of zeros among all `kernels` afterwards, in 0..1, to the nearest weight. Of equal
            weights at the threshold the first go.
    """
    weights = [weight for _, weight in kernels(net)]
    magnitudes = torch.cat([weight.abs().flatten() for weight in weights])
    chosen = torch.argsort(magnitudes, stable=True)[: round(sparsity * len(magnitudes))]
    keep = torch.ones(len(magnitudes), dtype=torch.bool)
    keep[chosen] = False
    masks = torch.split(keep, [weight.numel() for weight in weights])
    for weight, mask in zip(weights, masks, strict=True):
        weight.mul_(mask.view_as(weight))


def hold_zeros(net: nn.Module) -> None:
    """Keep the zeros of `kernels` at zero in all training to come.

    Their gradients are zero from now on; Adam moves nothing that never had a gradient, and the decay of zero
    is zero.
    """
    for _, weight in kernels(net):
        mask = (weight != 0).to(weight.dtype)

        def masked(gradient: Tensor, mask: Tensor = mask) -> Tensor:
            return gradient * mask.to(gradient)

        weight.register_hook(masked)  # type: ignore[no-untyped-call]


def zipped_bytes(net: nn.Module) -> int:
    """Return the size of the float32 parameters in a zip (deflate): where zeros pay at last."""
    numbers = b"".join(each.detach().cpu().float().numpy().tobytes() for each in net.parameters())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("parameters", numbers)
    return buffer.tell()
