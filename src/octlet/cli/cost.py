"""`octlet cost`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import click

from octlet.cli.ui import json_option, next_step, print_json, table
from octlet.compress.cost import NetCost, cost_of
from octlet.core.bundle import ONNX, open_bundle
from octlet.core.errors import InputError, ModelFileError, UsageError
from octlet.models.spec import MODELS, NetSpec, named_spec


@click.command()
@click.argument("source")
@click.option(
    "--size", type=click.IntRange(32, 1024), help="Side of the input, pixels; the run's own, 224 for a name."
)
@click.option("--layers", is_flag=True, help="Also one row for every layer.")
@json_option
def command(source: str, size: int | None, layers: bool, as_json: bool) -> None:
    """Count what a network takes for one scan, without running it.

    SOURCE is a run's folder, a model file, or the name of a network ("resnet101"). MACs are
    multiply-accumulates. The weights' bytes are those of the exported file. The peak is the most memory that
    activations take at once; weights and the engine itself come on top.
    """
    subject = _subject(source, size)
    exclude = subject.exclude
    cost = cost_of(subject.spec, subject.size, quantised=subject.quantised, exclude=exclude)
    if as_json:
        print_json(_plain(subject, cost, layers))
    else:
        _print(subject, cost, layers)
    next_step(subject.then if layers else f"octlet cost {quote(source)} --layers")


@dataclass(frozen=True)
class _Subject:
    """What is counted: where it comes from, its specification, and how it is rounded.

    Attributes:
        then: the command that follows.
        file_bytes, network_bytes: of a model file and of the network in it.
    """

    source: str
    kind: str
    then: str
    spec: NetSpec
    size: int
    quantised: bool = False
    exclude: tuple[str, ...] = ()
    file_bytes: int | None = None
    network_bytes: int | None = None


def _subject(source: str, size: int | None) -> _Subject:
    """Find out what SOURCE is; a path that exists comes before a name."""
    path = Path(source)
    if path.is_dir():
        return _run(source, size)
    if path.exists() or path.suffix == ".octlet":
        return _model_file(source, size)
    if source in MODELS:
        then = f"octlet train --data DIR --model {source}"
        return _Subject(source, "network", then, named_spec(source), size or 224)
    remedy = f"give a run's folder, a model file, or one of {', '.join(MODELS)}"
    raise InputError("no such folder, file or network", path=source, remedy=remedy)


def _run(source: str, size: int | None) -> _Subject:
    from octlet.train.checkpoint import is_quantised, read_record

    folder = Path(source)
    record = read_record(folder)
    own = record.get("size")
    if type(own) is not int:
        raise ModelFileError("the run does not state its input size", path=folder, remedy="train again")
    spec = _spec(record.get("spec", {}), folder)
    then = f"octlet export {quote(source)}"
    return _Subject(source, "run", then, spec, size or own, is_quantised(record), _exclude(record))


def _model_file(source: str, size: int | None) -> _Subject:
    path = Path(source)
    manifest = open_bundle(path).manifest
    own = manifest.preprocessing.size
    if size not in (None, own):
        raise UsageError(f"its input is {own} x {own}", path=path, remedy="leave out --size")
    return _Subject(
        source,
        "model file",
        f"octlet verify {quote(source)}",
        _spec(manifest.network, path),
        own,
        "integers" in manifest.training,  # the proof, at export, that it runs in them
        _exclude(manifest.training),
        path.stat().st_size,
        manifest.files[ONNX].bytes if ONNX in manifest.files else None,
    )


def _spec(plain: dict[str, Any], path: Path) -> NetSpec:
    try:
        return NetSpec.from_dict(plain)
    except ModelFileError as error:  # it knows the rule, not the place
        raise ModelFileError(error.rule, path=path, remedy="train or export again") from error


def _exclude(record: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(record.get("quantization", {}).get("exclude", ()))


def _plain(subject: _Subject, cost: NetCost, layers: bool) -> dict[str, Any]:
    return {
        "source": subject.source,
        "kind": subject.kind,
        "size": subject.size,
        "quantised": subject.quantised,
        "exclude": list(subject.exclude),
        "macs": cost.macs,
        "parameters": cost.parameters,
        "weight_bytes": cost.weight_bytes,
        "peak_activation_bytes": cost.peak_activation_bytes,
        "peak_layer": cost.peak.name,
        "file_bytes": subject.file_bytes,
        "network_bytes": subject.network_bytes,
        "layers": [asdict(layer) for layer in cost.layers] if layers else None,
    }


def _print(subject: _Subject, cost: NetCost, layers: bool) -> None:
    form = "8-bit integers" if subject.quantised else "32-bit floats"
    if subject.quantised and subject.exclude:
        form += f" but for {', '.join(subject.exclude)}"
    click.echo(f"{subject.source}: {subject.kind}, {form}, one scan of {subject.size} x {subject.size}\n")
    rows = [
        ("MACs", f"{cost.macs / 1e9:.3f} G"),
        ("parameters", f"{cost.parameters:,}"),
        ("weights", f"{cost.weight_bytes:,} bytes"),
        ("peak activations", f"{cost.peak_activation_bytes:,} bytes, at {cost.peak.name}"),
    ]
    if subject.file_bytes is not None:
        rows.append(("model file", f"{subject.file_bytes:,} bytes"))
    if subject.network_bytes is not None:
        rows.append(("network in it", f"{subject.network_bytes:,} bytes"))
    click.echo(table(("", "total"), rows))
    if layers:
        click.echo("\n" + _layers(cost))


def _layers(cost: NetCost) -> str:
    measures = ("MMACs", "%", "parameters", "%", "weights kB", "%", "activations kB", "% of peak")
    headers = ("layer", "kind", *measures)
    rows = [
        (
            layer.name,
            layer.kind,
            round(layer.macs / 1e6, 1),
            _share(layer.macs, cost.macs),
            layer.parameters,
            _share(layer.parameters, cost.parameters),
            round(layer.weight_bytes / 1e3, 1),
            _share(layer.weight_bytes, cost.weight_bytes),
            round(layer.activation_bytes / 1e3, 1),
            _share(layer.activation_bytes, cost.peak_activation_bytes),
        )
        for layer in cost.layers
    ]
    return table(headers, rows)


def _share(part: int, whole: int) -> float:
    return round(100 * part / whole, 1)
