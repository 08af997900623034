"""The model card: what a model file says of itself to people (Mitchell et al. 2019, FAT*)."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from octlet.core.bundle import Manifest
from octlet.core.labels import LABELS, NAMES, URGENCY

TEST, FOLDS = "test", "cross_validation"  # keys of `Manifest.metrics`: figures on scans that were held out

_CARD = """\
# {name}

{notice}

A convolutional network that sorts retinal OCT B-scans into {count} classes. This file was written by Octlet
{version}; its SHA-256 sums, its exact network and all that follows stand in `manifest.json`.

## Classes
{classes}

## Intended use
Research on retinal OCT, and teaching. Not for diagnosis, triage or any decision about a patient. The model
knows the classes above and nothing else, and gives one of them to another disease too. A probability is not a
measured risk.

## Doubt
{doubt}

## Data
{data}

## Network
{parameters:,} parameters, family {family}, {bytes:,} bytes of ONNX{litert}; {arithmetic}.{origin} Outputs:
`logits` (N, {count}), `cam` (N, {count}, h, w), the class activation maps whose means are the logits, and
`embedding` (N, {width}).

## Preprocessing
The scan as 8-bit gray; white padding cut off; of the height a window about the retina; each axis scaled by
itself to {size} x {size} pixels (bilinear); values 0 to 255 mapped to -1 to 1. Input `image`: float32
(N, 1, {size}, {size}).

## Figures
{metrics}

## Licence and attribution
{licence}

## Check and use
    octlet verify model.octlet
    octlet predict -m model.octlet SCAN_OR_FOLDER

`golden.npz` holds simulated scans with the outputs that they must give: no patient's data are in this file.
"""


def render_card(
    manifest: Manifest, *, parameters: int, onnx_bytes: int, width: int, litert_bytes: int = 0
) -> str:
    """Return the card as Markdown; `width` is the length of the embedding, 0 bytes are no LiteRT file."""
    return _CARD.format(
        name=manifest.name,
        notice=manifest.notice,
        count=len(LABELS),
        version=manifest.versions["octlet"],
        classes="\n".join(f"- {label}: {NAMES[label]} ({URGENCY[label]})" for label in LABELS),
        data=_data(manifest.training),
        parameters=parameters,
        family=manifest.network["family"],
        arithmetic=_arithmetic(manifest.training),
        origin=_origin(manifest.training),
        bytes=onnx_bytes,
        litert=f" and {litert_bytes:,} of LiteRT" if litert_bytes else "",
        width=width,
        size=manifest.preprocessing.size,
        metrics=_metrics(manifest.metrics),
        doubt=_doubt(manifest),
        licence=manifest.licence,
    )


def with_trust(card: str, manifest: Manifest) -> str:
    """Return a card whose parts "Doubt" and "Figures" say what the manifest does."""
    card = _with_part(card, "Doubt", _doubt(manifest), before="Data")
    return _with_part(card, "Figures", _metrics(manifest.metrics), before="Licence and attribution")


def with_notes(card: str, notes: str) -> str:
    """Return a card with the maker's own Markdown in it, in place of what was there before."""
    return _with_part(card, "Notes", notes.strip(), before="Licence and attribution")


def _with_part(card: str, title: str, text: str, before: str) -> str:
    part = f"## {title}\n{text}\n\n"
    found = re.compile(rf"^## {title}\n.*?\n(?=## )", re.MULTILINE | re.DOTALL)
    if found.search(card):
        return found.sub(lambda _: part, card, count=1)
    above, mark, below = card.partition(f"## {before}\n")
    return f"{above}{part}{mark}{below}"


def _doubt(manifest: Manifest) -> str:
    if manifest.second_look is None:
        return _trust(manifest)
    told = f"A scan with no class of probability {manifest.second_look:.3g} is looked at once more, mirrored;"
    return f"{told}\nthe mean of both looks' logits counts.\n\n{_trust(manifest)}"


def _trust(manifest: Manifest) -> str:
    if manifest.trust is None:
        return (
            "Never calibrated: it gives one of its classes to any image, also to a photograph of something\n"
            "else, and how often its probabilities are right is not known. `octlet calibrate` finds out."
        )
    fit, limits = manifest.trust.calibration, manifest.trust.thresholds
    always = [label for label, lowest in limits.lowest.items() if lowest == 0]
    lines = [
        f"Fitted on {fit.scans} scans, each scored by a network that was not trained on it.",
        f"- temperature {fit.temperature:.3f}; calibration error {fit.ece_before:.3f} before, "
        f"{fit.ece_after:.3f} after",
        f"- prediction sets: of each class {limits.coverage:.0%} of such scans have it in their set",
        f"- a label of a probability under {limits.confidence:.3f} is called uncertain: of such scans at",
        f"  most {limits.doubt:.0%}",
        f"- an image whose embedding lies over {limits.distance:.3f} off the prototypes is",
        f"  refused: of such scans at most {limits.refusal:.1%}",
    ]
    if layout := manifest.trust.layout:
        lines += [
            f"- and so is one whose layout is over {layout.distance:.3f} off the usual, for any network:",
            f"  of such scans at most {layout.refusal:.1%}",
        ]
    if always:
        lines.append(f"- too few scans for a threshold, hence in every set: {', '.join(always)}")
    return "\n".join(lines)


def _data(training: Mapping[str, Any]) -> str:
    data = training["data"]
    if not data:
        return "The run does not say what it was trained on."
    lines = [f"- {key.replace('_', ' ')}: {_plain(value)}" for key, value in data.items()]
    return "\n".join([*lines, f"- epoch kept: {training['epoch']}"])


def _arithmetic(training: Mapping[str, Any]) -> str:
    how = training.get("quantization")
    if not how:
        return "float32"
    rounded, layers = how["layers"]
    if how["method"] == "qat-linear":
        return (
            f"float32 but for the final layer's weights, which lie on torchao's 4-bit grid ({how['method']})"
        )
    return (
        f"{how['weights_bits']}-bit weights and 8-bit activations in {rounded} of {layers} layers "
        f"({how['method']}, calibrated on {how['calibrated_on']} training scans)"
    )


def _origin(training: Mapping[str, Any]) -> str:
    """Tell what the network was made from, where it was not simply trained."""
    told = []
    if pruned := training.get("pruning"):
        if pruned["what"] == "weights":
            told.append(f"Pruned: {pruned['sparsity']:.1%} of the weights of its dense form are zero.")
        else:
            # a share: how many there are depends on the size of the scans, which a later training may change
            told.append(f"Pruned, in steps, towards {pruned['to_macs']:.3g} of its multiply-accumulates.")
    if teachers := training.get("teacher"):
        names = ", ".join(f"{each['model']} ({each['parameters']:,} parameters)" for each in teachers)
        told.append(f"Taught by {names}.")
    return "".join(f" {line}" for line in told)


def _metrics(metrics: Mapping[str, Any]) -> str:
    intro = "On the validation fold, on which settings were chosen and which is therefore flattering. "
    rest = (
        "Figures on test patients are not in this file: `octlet evaluate model.octlet FOLDER` measures them."
    )
    if not metrics:
        return f"The run states no validation figures. {rest}"
    rows = [
        f"| {key.replace('_', ' ')} | {_plain(value)} |"
        for key, value in metrics.items()
        if key not in (TEST, FOLDS)
    ]
    validated = ["| figure | validation |", "| --- | --- |", *rows]
    told = [line for key in (TEST, FOLDS) if key in metrics for line in (*_tested(metrics[key], key), "")]
    if not told:
        return "\n".join([intro + rest, "", *validated])
    return "\n".join([*told, intro.rstrip(), "", *validated] if rows else told[:-1])


def _tested(figures: Mapping[str, Any], key: str) -> list[str]:
    """Return the figures on unseen scans as a table's lines, each with its 95 % interval."""
    scans = f"{figures['scans']} scans of {figures['patients']} patients"
    head = f"On {scans} that it was not trained on; 95 % intervals."
    if key == FOLDS:
        head = (
            f"Expected, from a cross-validation on {scans}: each was tested by a\n"
            "network of the same settings that had not seen its patient. This network was trained on all of\n"
            "them and tested on no others; 95 % intervals."
        )
    return [head, "", f"| figure | {key.replace('_', ' ')} |", "| --- | --- |", *_rows(figures)]


def _rows(figures: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for key, value in figures.items():
        name = f"{above}{key.replace('_', ' ')}"
        if isinstance(value, Mapping) and "value" in value:
            yield f"| {name} | {value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f}) |"
        elif isinstance(value, Mapping):
            yield from _rows(value, f"{name} ")


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
