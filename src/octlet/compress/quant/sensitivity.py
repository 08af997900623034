"""Which layers bear 8 bits badly: each layer's rounding alone, against none."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from octlet.compress.answers import answers, divergence
from octlet.compress.quant.graph import FakeQuantised
from octlet.core.files import csv_of, replacing, write_text
from octlet.data.index import Progress
from octlet.train.showing import Fold

SCANS = 32
COLOUR = "#0072b2"


@dataclass(frozen=True)
class LayerSensitivity:
    """What rounding one layer's weights, and the activation that it writes, does to the answers.

    Attributes:
        layer: its name.
        divergence: mean KL divergence of the answers from the float network's, nats.
        changed: share of scans that get another label.
        weights: how many weights it has.
    """

    layer: str
    divergence: float
    changed: float
    weights: int


def sensitivity(twin: FakeQuantised, fold: Fold, progress: Progress) -> list[LayerSensitivity]:
    """Round each layer alone and rank them, the most sensitive first.

    Args:
        twin: calibrated, on the CPU; left with all rounding on.
        fold: validation scans, of which `SCANS` are used.
        progress: a wrapper of a counting iterable.
    """
    sample = fold.sample(SCANS)
    twin.eval()
    twin.round(False)
    reference = answers(twin, sample)
    sizes = {name.removesuffix(".weight"): p.numel() for name, p in twin.graph.named_parameters()}
    costs = []
    for k in progress(range(len(twin.quantised))):
        layer = twin.quantised[k]
        layer.weights.rounds = layer.output.rounds = True
        found = answers(twin, sample)
        layer.weights.rounds = layer.output.rounds = False
        changed = (reference.argmax(1) != found.argmax(1)).mean()
        costs.append(
            LayerSensitivity(layer.name, divergence(reference, found), float(changed), sizes[layer.name])
        )
    twin.round(True)
    return sorted(costs, key=lambda cost: -cost.divergence)


def write_sensitivity(out: Path, costs: Sequence[LayerSensitivity]) -> None:
    """Write sensitivity.csv and sensitivity.png."""
    write_text(out / "sensitivity.csv", csv_of(map(asdict, costs)))
    _draw(out / "sensitivity.png", costs[:25])


def _draw(path: Path, costs: Sequence[LayerSensitivity]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.2 + 0.24 * len(costs)), layout="constrained")
    axes = figure.subplots()
    rows = range(len(costs))
    axes.barh(rows, [cost.divergence for cost in costs], color=COLOUR, height=0.7)
    axes.set_yticks(rows, [cost.layer for cost in costs], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("KL divergence from the float network, nats a scan")
    axes.set_title(f"Rounding one layer alone: the {len(costs)} most sensitive", fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
