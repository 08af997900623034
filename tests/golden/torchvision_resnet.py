"""Writes torchvision_resnet.json: key names, shapes and outputs of torchvision's own ResNets.

Run it where torchvision imports: python tests/golden/torchvision_resnet.py
"""

import json
import math
from pathlib import Path

import torch

NAMES = ("resnet18", "resnet34", "resnet50", "resnet101")
CLASSES = 7
SIZE = 64


def closed_form(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights of the shapes of `state` from a formula, so that no weights need to be stored."""
    filled = {}
    for number, (key, tensor) in enumerate(sorted(state.items())):
        place = torch.arange(tensor.numel(), dtype=torch.float64).reshape(tensor.shape)
        wave = (torch.sin(place * 12.9898 + number) * 43758.5453).frac()  # noise from a formula, in -1..1
        if key.endswith("num_batches_tracked"):
            filled[key] = torch.zeros_like(tensor)
        elif tensor.ndim > 1:
            filled[key] = (wave * math.sqrt(6 / tensor[0].numel())).float()
        elif key.endswith("running_var"):
            filled[key] = (1 + wave.abs() / 2).float()
        elif key.endswith("weight"):
            filled[key] = (1 + wave / 10).float()
        else:
            filled[key] = (wave / 10).float()
    return filled


def scans(channels: int) -> torch.Tensor:
    """Return two gray pictures (2, channels, SIZE, SIZE) in -1..1, equal in every channel."""
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    pair = torch.stack([torch.sin(x * y / 90.0), torch.cos(x / 5.0 + y / 11.0)]).float()
    return pair[:, None].expand(2, channels, SIZE, SIZE).contiguous()


def main() -> None:
    from torchvision.models import resnet

    golden = {}
    for name in NAMES:
        net = getattr(resnet, name)(num_classes=CLASSES).eval()
        state = net.state_dict()
        net.load_state_dict(closed_form(state))
        with torch.inference_mode():
            logits = net(scans(3))
        golden[name] = {"shapes": {k: list(t.shape) for k, t in state.items()}, "logits": logits.tolist()}
    Path(__file__).with_suffix(".json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
