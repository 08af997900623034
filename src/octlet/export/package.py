"""A trained run becomes one model file."""

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from octlet import __version__
from octlet.compress.quant.run import load_quantised
from octlet.core.bundle import (
    CARD,
    GOLDEN,
    ONNX,
    TFLITE,
    EngineFile,
    Manifest,
    Preprocessing,
    Tolerances,
    write_bundle,
)
from octlet.core.errors import ModelFileError, UsageError
from octlet.core.files import sha256_of, writing_to
from octlet.core.image import decode, normalise, prepare
from octlet.core.labels import LABELS
from octlet.data.index import Progress
from octlet.data.phantom import simulate
from octlet.export.card import render_card
from octlet.export.layers import check_layers
from octlet.export.litert import LiteRtModel, require_litert, to_litert
from octlet.export.onnx import RANDOM_INPUTS, check_parity, to_onnx, torch_outputs
from octlet.export.qdq import check_integers, check_placement, to_qdq
from octlet.models.resnet import count_parameters
from octlet.models.spec import NetSpec
from octlet.runtime.engine import DEFAULT, ENGINES
from octlet.runtime.verify import GoldenVector, dump_golden
from octlet.train.checkpoint import is_quantised, load_run, read_record
from octlet.train.prior import shift_prior

LICENCE = (
    "The run states no licence for these weights. The licences of the training scans and of any pretrained "
    "weights apply, with the attribution that they ask for."
)
IMAGES = 512
LAYER_IMAGES = 4  # millions of values in every layer
_ENTRIES = {DEFAULT: ONNX, "litert": TFLITE}
_HISTORY = ("quantization", "float", "pruning", "distill", "teacher", "student")  # what made a network small
# Integers differ between machines and from torch where a sum lies at the edge between two steps. The worst of
# an embedding's many numbers counts: of EfficientNet-Lite0's 1280 it is 9 % off, the mean 0.4 %.
INTEGER_TOLERANCES = Tolerances(logits=0.03, cam=0.1, embedding=0.1)
_GOLDEN_SEED = 2018
_GOLDEN_SHAPE = (496, 512)
_DRAWS = 16
# How a class's golden scan is kept, and by what its sides are divided: whole, all four of them would be more
# than half of a file of 1 MB. One is made smaller on its way into the network, three larger.
_KEPT = (("JPEG", 1), ("PNG", 4), ("JPEG", 4), ("PNG", 4))


def export_run(
    run: Path,
    out: Path,
    *,
    name: str = "",
    licence: str = "",
    prior_shift: float = 0.0,
    images: int = IMAGES,
    litert: bool = False,
    second_look: float = 0.0,
    progress: Progress = iter,
) -> dict[str, Any]:
    """Write the network of a run as a model file; equal runs give equal bytes.

    Args:
        run: folder that `octlet train` or `octlet quantize` wrote.
        out: the model file, whose name ends in ".octlet".
        name: of the model; "" takes the folder's.
        licence: of the weights, with the attribution that the scans and pretrained weights ask for.
        prior_shift: tau of `shift_prior`, 0 for none. Choose it on validation scans.
        images: simulated scans on which a quantised network must agree with the simulation.
        litert: carry the network for LiteRT too, made from the ONNX file and held to the same bounds.
        second_look: see `Manifest.second_look`; 0 for none. Choose it on scans that were not trained on.
        progress: a wrapper of a counting iterable, for those.

    Returns:
        model, name, sha256, bytes, size, parameters, golden (their number) and parity: for each output the
        largest difference between torch and ONNX Runtime, as a share of its range; for a quantised run also
        `layers` (see `octlet.export.layers.LayerParity`), `integers` (see `octlet.export.qdq.check_integers`)
        and `operators`. With LiteRT also `litert`: its bytes, operators and parity.

    Raises:
        UsageError: `out` is a folder or ends otherwise; a prior shift for a quantised run; no LiteRT here.
        InputError, ModelFileError: no run, or a damaged one.
        GateError: an engine does not compute what torch does, or computes in float what was quantised.
    """
    if out.suffix != ".octlet" or out.is_dir():
        raise UsageError("a model file's name ends in .octlet", path=out, remedy="for example model.octlet")
    if litert:
        require_litert()
    subject = _subject(run, prior_shift, litert, images, progress)
    vectors = golden_vectors(subject.net, subject.size, subject.tolerances)
    parity = _parity(subject, vectors)
    manifest = _manifest(subject, name or run.resolve().name, licence or LICENCE, second_look or None)
    files = {_ENTRIES[engine]: data for engine, data in subject.networks.items()}
    files |= {GOLDEN: dump_golden(vectors), CARD: _card(subject, manifest)}
    with writing_to(out):
        write_bundle(out, manifest, files)
    about = {"model": str(out), "name": manifest.name, "sha256": sha256_of(out), "bytes": out.stat().st_size}
    return about | {"golden": len(vectors)} | _told(subject, parity)


@dataclass(frozen=True)
class _Subject:
    """What is exported: a module that gives `Outputs`, its files for engines, and what is known of it."""

    net: nn.Module
    onnx: bytes
    litert: LiteRtModel | None
    meta: dict[str, Any]
    size: int
    tolerances: Tolerances
    parameters: int
    width: int
    noise: int
    evidence: dict[str, Any]

    @property
    def networks(self) -> dict[str, bytes]:
        """The bytes of each engine's file."""
        return {DEFAULT: self.onnx} | ({} if self.litert is None else {"litert": self.litert.data})


def _subject(run: Path, prior_shift: float, litert: bool, images: int, progress: Progress) -> _Subject:
    if is_quantised(read_record(run)):
        if prior_shift:
            remedy = "quantise again with 'octlet quantize --prior-shift'"
            raise UsageError("a prior shift belongs before the rounding", path=run, remedy=remedy)
        return _integers(run, litert, images, progress)
    trained = load_run(run)
    shift_prior(trained, prior_shift, run)
    size = _size(trained.meta, run)
    net = trained.net
    model = to_onnx(net, size)
    return _Subject(
        net,
        model,
        to_litert(model, size) if litert else None,
        trained.meta,
        size,
        Tolerances(),
        count_parameters(net),
        net.fc.in_features,
        RANDOM_INPUTS,
        {},
    )


def _integers(run: Path, litert: bool, images: int, progress: Progress) -> _Subject:
    quantised = load_quantised(run)
    twin, size = quantised.twin, _size(quantised.meta, run)
    model = to_qdq(twin, size)
    operators = check_placement(model.onnx, quantised.excluded)
    other = to_litert(model.onnx, size) if litert else None
    others = {}
    if other is not None:
        other.check_placement(quantised.excluded)
        others["litert"] = other.data
    scans = simulated_scans(images, size)
    layers = check_layers(model.onnx, normalise(scans[:LAYER_IMAGES]))
    integers = check_integers(model, twin, scans, progress, others)
    spec = NetSpec.from_dict(quantised.meta["spec"])
    return _Subject(
        twin,
        model.onnx,
        other,
        quantised.meta,
        size,
        INTEGER_TOLERANCES,
        count_parameters(twin),
        spec.embedding,
        0,  # of noise: near the grid's edges a difference in rounding shows more, and proves less
        {"layers": asdict(layers), "integers": integers, "operators": operators},
    )


def _parity(subject: _Subject, vectors: Sequence[GoldenVector]) -> dict[str, dict[str, float]]:
    """Hold every engine to torch; raises GateError where one computes something else."""
    inputs = normalise(np.stack([vector.pixels for vector in vectors]))
    limits, noise = subject.tolerances, subject.noise
    return {
        engine: check_parity(data, subject.net, inputs, limits, noise=noise, engine=engine)
        for engine, data in subject.networks.items()
    }


def _told(subject: _Subject, parity: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Return what `export_run` tells of the network itself."""
    told = {"size": subject.size, "parameters": subject.parameters, "parity": parity[DEFAULT]}
    told |= subject.evidence
    if subject.litert is not None:
        of_file = {"bytes": len(subject.litert.data), "operators": subject.litert.operators}
        told["litert"] = of_file | {"parity": parity["litert"]}
    return told


def _card(subject: _Subject, manifest: Manifest) -> bytes:
    text = render_card(
        manifest,
        parameters=subject.parameters,
        onnx_bytes=len(subject.onnx),
        width=subject.width,
        litert_bytes=0 if subject.litert is None else len(subject.litert.data),
    )
    return text.encode()


def _size(meta: dict[str, Any], run: Path) -> int:
    size = meta.get("size")
    if type(size) is not int:
        raise ModelFileError("the run does not state its input size", path=run, remedy="train again")
    return size


def simulated_scans(n: int, size: int) -> NDArray[np.uint8]:
    """Return n prepared phantoms of all classes in turn, and mirrored ones from the middle on: (n, S, S)."""
    rng = np.random.default_rng(_GOLDEN_SEED + 1)
    phantoms = (simulate(LABELS[k % len(LABELS)], rng, shape=_GOLDEN_SHAPE) for k in range(-(-n // 2)))
    scans = np.stack([prepare(phantom.pixels, size).pixels for phantom in phantoms])
    return np.concatenate([scans, scans[:, :, ::-1]])[:n]


def golden_vectors(net: nn.Module, size: int, tolerances: Tolerances) -> list[GoldenVector]:
    """Simulate a scan of each class, one whole and three of a quarter of the sides, and compute it in torch.

    Phantoms: a model file travels, and no patient's scan may travel with it. One that stands between two
    labels is drawn again, up to `_DRAWS` times: there an engine within `tolerances` may give the other label.
    """
    rng = np.random.default_rng(_GOLDEN_SEED)
    return [
        _clear(label, kept, rng, net, size, tolerances) for label, kept in zip(LABELS, _KEPT, strict=True)
    ]


def _clear(
    label: str,
    kept: tuple[str, int],
    rng: np.random.Generator,
    net: nn.Module,
    size: int,
    tolerances: Tolerances,
) -> GoldenVector:
    """Return the first phantom of a class whose label is clear; of `_DRAWS` that are not, the clearest."""
    form, part = kept
    name = f"phantom-{label}.{form.lower()}"
    # Two logits may move towards each other, and the tolerance is a share of a range wider than one scan's.
    limit, clearest = 4 * tolerances.logits, -1.0
    for _ in range(_DRAWS):
        scan = Image.fromarray(simulate(label, rng, shape=_GOLDEN_SHAPE).pixels).reduce(part)
        buffer = io.BytesIO()
        scan.save(buffer, form)
        pixels = prepare(decode(buffer.getvalue(), name), size).pixels
        (output,) = torch_outputs(net, normalise(pixels[None]))
        least, second, first = np.sort(output.logits[0])[[0, -2, -1]]
        lead = float((first - second) / (first - least)) if first > least else 0.0
        if lead > clearest:
            clearest, chosen = lead, GoldenVector(name, buffer.getvalue(), pixels, output)
        if lead > limit:
            break
    return chosen


def _manifest(subject: _Subject, name: str, licence: str, second_look: float | None) -> Manifest:
    meta = subject.meta
    packages = ["numpy", "onnx", "onnxruntime", "onnxscript", "pillow", "torch"]
    if subject.litert is not None:
        packages.append(ENGINES["litert"].distribution)
    return Manifest(
        name=name,
        preprocessing=Preprocessing(subject.size),
        engines={engine: EngineFile(_ENTRIES[engine]) for engine in subject.networks},
        golden=subject.tolerances,
        network=meta["spec"],
        training={
            "data": meta.get("data", {}),
            "config": meta.get("config", {}),
            "epoch": meta.get("epoch"),
            "prior_shift": meta.get("prior_shift", 0.0),
            "environment": meta.get("environment", {}),
            **{key: meta[key] for key in _HISTORY if key in meta},
            **subject.evidence,
        },
        metrics=meta.get("metrics", {}),
        versions={"octlet": __version__} | {package: version(package) for package in packages},
        licence=licence,
        second_look=second_look,
    )
