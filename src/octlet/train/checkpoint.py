"""Checkpoints: one safetensors file whose header carries a JSON record, so that the two can not part.

No pickle: reading a checkpoint runs no code.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from octlet.core.errors import InputError, ModelFileError
from octlet.core.files import replacing
from octlet.models.resnet import ResNet, build
from octlet.models.spec import NetSpec

BEST = "checkpoint.safetensors"
LAST = "last.safetensors"
FORMAT = "octlet-checkpoint-1"


@dataclass(frozen=True)
class TrainedRun:
    """A trained network in eval mode and what is known of it (see `octlet.train.run`)."""

    net: ResNet
    meta: dict[str, Any]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write tensors and their JSON record as one safetensors file, whole or not at all."""
    ready = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
    header = {"format": FORMAT, "record": json.dumps(record, allow_nan=False)}
    with replacing(path) as temporary:
        save_file(ready, temporary, metadata=header)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote.

    Raises:
        ModelFileError: missing, damaged, or not an Octlet checkpoint.
    """
    return _open(path, with_tensors=True)


def read_header(path: Path) -> dict[str, Any]:
    """Read the record of what `write_tensors` wrote, and no tensor; raises as `read_tensors`."""
    return _open(path, with_tensors=False)[1]


def _open(path: Path, *, with_tensors: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not path.is_file():
        raise ModelFileError("no such checkpoint", path=path, remedy="give the folder of a finished run")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            keys = file.keys() if with_tensors else ()
            tensors = {key: file.get_tensor(key) for key in keys}
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"a damaged checkpoint: {error}", path=path, remedy="train again") from error
    if header.get("format") != FORMAT:
        raise ModelFileError("not an Octlet checkpoint", path=path, remedy="give the folder of a run")
    record: dict[str, Any] = json.loads(header["record"])
    return tensors, record


def read_record(folder: Path) -> dict[str, Any]:
    """Read the record of a run's checkpoint without its tensors.

    Raises:
        InputError: no such folder.
        ModelFileError: no checkpoint in it, or a damaged one.
    """
    return read_header(_kept(folder))


def is_quantised(meta: Mapping[str, Any]) -> bool:
    """Tell whether a record is of a network whose every layer is rounded (its tensors are no `ResNet`'s)."""
    return meta.get("quantization", {}).get("method") in ("ptq", "qat")


def _kept(folder: Path) -> Path:
    if not folder.is_dir():
        rule = "no such run folder"
        raise InputError(rule, path=folder, remedy="give the folder that 'octlet train' wrote")
    return folder / BEST


def save_run(folder: Path, net: nn.Module, meta: Mapping[str, Any]) -> None:
    """Write a trained network and its record as `folder`/checkpoint.safetensors."""
    write_tensors(folder / BEST, net.state_dict(), meta)


def load_run(folder: str | Path) -> TrainedRun:
    """Rebuild a run's best network from its stored specification alone, in eval mode, on the CPU.

    Raises:
        InputError: no such folder.
        ModelFileError: no checkpoint in it, or a damaged one.
    """
    place = Path(folder)
    tensors, meta = read_tensors(_kept(place))
    if is_quantised(meta):
        raise _no_float_run(place)
    with torch.random.fork_rng(devices=[]):  # building draws weights that are overwritten at once
        net = build(NetSpec.from_dict(meta["spec"]))
    try:
        net.load_state_dict(tensors)
    except RuntimeError as error:
        rule = "its tensors do not fit its specification"
        raise ModelFileError(rule, path=place / BEST, remedy="train again") from error
    return TrainedRun(net.eval(), meta)


def load_float_run(folder: str | Path) -> TrainedRun:
    """As `load_run`, but refuse a run whose last layer torchao has rounded, too."""
    trained = load_run(folder)
    if "quantization" in trained.meta:
        raise _no_float_run(Path(folder))
    return trained


def _no_float_run(folder: Path) -> ModelFileError:
    rule = "a quantised run; this takes a float one"
    return ModelFileError(rule, path=folder, remedy="give the run that it was quantised from")
