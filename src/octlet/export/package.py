"""A trained run becomes one model file."""

import io
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from octlet import __version__
from octlet.core.bundle import (
    CARD,
    GOLDEN,
    ONNX,
    EngineFile,
    Manifest,
    Preprocessing,
    Tolerances,
    write_bundle,
)
from octlet.core.errors import ModelFileError, UsageError
from octlet.core.files import sha256_of
from octlet.core.image import decode, normalise, prepare
from octlet.core.labels import LABELS
from octlet.data.phantom import simulate
from octlet.export.card import render_card
from octlet.export.onnx import check_parity, to_onnx, torch_outputs
from octlet.models.resnet import ResNet, count_parameters
from octlet.runtime.verify import GoldenVector, dump_golden
from octlet.train.checkpoint import TrainedRun, load_run

LICENCE = (
    "The run states no licence for these weights. The licences of the training scans and of any pretrained "
    "weights apply, with the attribution that they ask for."
)
_GOLDEN_SEED = 2018
_GOLDEN_SHAPE = (496, 512)


def export_run(
    run: Path, out: Path, *, name: str = "", licence: str = "", prior_shift: float = 0.0
) -> dict[str, Any]:
    """Write the best network of a run as a model file; equal runs give equal bytes.

    Args:
        run: folder that `octlet train` wrote.
        out: the model file, whose name ends in ".octlet".
        name: of the model; "" takes the folder's.
        prior_shift: tau of `shift_prior`, 0 for none. Choose it on validation scans.
        licence: of the weights, with the attribution that the scans and pretrained weights ask for.

    Returns:
        model, name, sha256, bytes, size, parameters, golden (their number) and parity: for each output the
        largest difference between torch and ONNX Runtime, as a share of its range.

    Raises:
        UsageError: `out` is a folder or ends otherwise.
        InputError, ModelFileError: no run, or a damaged one.
        GateError: ONNX Runtime does not compute what torch does.
    """
    if out.suffix != ".octlet" or out.is_dir():
        raise UsageError("a model file's name ends in .octlet", path=out, remedy="for example model.octlet")
    trained = load_run(run)
    shift_prior(trained, prior_shift, run)
    size = _size(trained, run)
    model = to_onnx(trained.net, size)
    vectors = golden_vectors(trained.net, size)
    tolerances = Tolerances()
    inputs = normalise(np.stack([vector.pixels for vector in vectors]))
    parity = check_parity(model, trained.net, inputs, tolerances)
    manifest = _manifest(trained, name or run.resolve().name, licence or LICENCE, size, tolerances)
    parameters, width = count_parameters(trained.net), trained.net.fc.in_features
    card = render_card(manifest, parameters=parameters, onnx_bytes=len(model), width=width)
    files = {ONNX: model, GOLDEN: dump_golden(vectors), CARD: card.encode()}
    try:
        write_bundle(out, manifest, files)
    except OSError as error:
        raise UsageError(
            f"cannot be written: {error.strerror}", path=out, remedy="give another --out"
        ) from error
    return {
        "model": str(out),
        "name": manifest.name,
        "sha256": sha256_of(out),
        "bytes": out.stat().st_size,
        "size": size,
        "parameters": parameters,
        "golden": len(vectors),
        "parity": parity,
    }


def shift_prior(trained: TrainedRun, tau: float, run: Path) -> None:
    """Subtract tau * log(share of the class among the training scans) from the head's bias, in place.

    A class with few training scans is learned by heart and called too rarely on new ones; this lowers the
    threshold for it (post-hoc logit adjustment, Menon et al. 2021, arXiv:2007.07314, section 4.1). As a bias
    it moves logits and maps alike, so the maps' means stay the logits, and costs nothing.

    Raises ModelFileError if the run does not state scans of every class.
    """
    if not tau:
        return
    counts = [trained.meta.get("data", {}).get("per_class", {}).get(label, 0) for label in LABELS]
    if min(counts) < 1:
        raise ModelFileError(
            "the run does not state its scans of every class", path=run, remedy="train again"
        )
    shares = torch.tensor(counts, dtype=torch.float64) / sum(counts)
    with torch.no_grad():
        trained.net.fc.bias.sub_((tau * shares.log()).float())
    trained.meta["prior_shift"] = tau


def _size(trained: TrainedRun, run: Path) -> int:
    size = trained.meta.get("size")
    if type(size) is not int:
        raise ModelFileError("the run does not state its input size", path=run, remedy="train again")
    return size


def golden_vectors(net: ResNet, size: int) -> list[GoldenVector]:
    """Simulate a scan of each class, JPEG and PNG in turn, and compute it in torch.

    Phantoms: a model file travels, and no patient's scan may travel with it.
    """
    images = {}
    rng = np.random.default_rng(_GOLDEN_SEED)
    for label, form in zip(LABELS, ("JPEG", "PNG") * 2, strict=True):
        phantom = simulate(label, rng, shape=_GOLDEN_SHAPE)
        buffer = io.BytesIO()
        Image.fromarray(phantom.pixels).save(buffer, form)
        images[f"phantom-{label}.{form.lower()}"] = buffer.getvalue()
    pixels = [prepare(decode(data, name), size).pixels for name, data in images.items()]
    outputs = torch_outputs(net, normalise(np.stack(pixels)))
    rows = zip(images.items(), pixels, outputs, strict=True)
    return [GoldenVector(name, data, image, output) for (name, data), image, output in rows]


def _manifest(trained: TrainedRun, name: str, licence: str, size: int, tolerances: Tolerances) -> Manifest:
    meta = trained.meta
    packages = ("numpy", "onnx", "onnxruntime", "onnxscript", "pillow", "torch")
    return Manifest(
        name=name,
        preprocessing=Preprocessing(size),
        engines={"onnxruntime": EngineFile(ONNX)},
        golden=tolerances,
        network=trained.net.spec.as_dict(),
        training={
            "data": meta.get("data", {}),
            "config": meta.get("config", {}),
            "epoch": meta.get("epoch"),
            "prior_shift": meta.get("prior_shift", 0.0),
            "environment": meta.get("environment", {}),
        },
        metrics=meta.get("metrics", {}),
        versions={"octlet": __version__} | {package: version(package) for package in packages},
        licence=licence,
    )
