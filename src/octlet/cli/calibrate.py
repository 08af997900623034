"""`octlet calibrate`."""

from pathlib import Path
from shlex import quote
from typing import Any

import click

from octlet.calibration import COVERAGE, DOUBT, REFUSAL, Plan, calibrate
from octlet.cli.ui import bar, json_option, next_step, print_json, say, table
from octlet.core.labels import LABELS
from octlet.runtime.predictor import Predictor


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--split", required=True, type=click.Path(path_type=Path), help="The model's split.csv.")
@click.option(
    "--subset", type=click.Choice(["val", "test"]), default="val", show_default=True, help="What to fit on."
)
@click.option("--out", type=click.Path(path_type=Path), help="The calibrated model file.")
@click.option("--scores", type=click.Path(path_type=Path), help="Write what was fitted on, as CSV.")
@click.option(
    "--from", "pooled", multiple=True, type=click.Path(path_type=Path), help="Fit on such a CSV; repeatable."
)
@click.option("--coverage", type=float, default=COVERAGE, show_default=True, help="Of the prediction sets.")
@click.option(
    "--doubt", type=float, default=DOUBT, show_default=True, help="Largest share of labels to call uncertain."
)
@click.option(
    "--refusal", type=float, default=REFUSAL, show_default=True, help="Largest share of real scans to refuse."
)
@click.option(
    "--performance", type=click.Path(path_type=Path), help="metrics.json of its test, for the file to tell."
)
@click.option(
    "--expected",
    type=click.Path(path_type=Path),
    help="metrics.json of a cross-validation, for the file of a model that was trained on all of its scans.",
)
@click.option("--notes", type=click.Path(path_type=Path), help="Markdown for the model card.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; all if not given.")
@json_option
def command(
    model: Path,
    data: Path,
    split: Path,
    subset: str,
    out: Path | None,
    scores: Path | None,
    pooled: tuple[Path, ...],
    coverage: float,
    doubt: float,
    refusal: float,
    performance: Path | None,
    expected: Path | None,
    notes: Path | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Teach a model file to doubt.

    Fits, on scans that the network was not trained on, the temperature of its probabilities, the sets of
    classes that cannot be ruled out, the probability under which a label is uncertain, and how far from the
    training scans an image is refused: half of --refusal for what the network makes of it, half for how it is
    laid out.
    DIR holds the labelled scans of the split. The network itself stays as it is, byte for byte.

    A validation set may be too small for a rare class. Then take what the other folds of a cross-validation
    said of their test scans: --subset test --scores fold-1.csv in each, and --from fold-1.csv --from ... for
    the model that was tested on none of them. A test scan of the model's own split is refused.
    """
    plan = Plan(data, split, subset, pooled, coverage, doubt, refusal, performance, expected, notes)
    found = calibrate(
        Predictor.open(model, threads=threads), plan, out=out, scores=scores, progress=bar("scoring scans")
    )
    if as_json:
        print_json(found)
    elif out is not None:
        _print(found)
    _warn(found)
    if scores is not None:
        say(f"wrote {scores}")
    if out is not None:
        say(f"wrote {out}")
        next_step(f"octlet predict -m {quote(str(out))} SCAN_OR_FOLDER")
    else:
        next_step(f"octlet calibrate OTHER.octlet {quote(str(data))} --split OTHER.csv --from {scores}")


def _print(found: dict[str, Any]) -> None:
    fit, limits = found["calibration"], found["thresholds"]
    click.echo(f"fitted on {found['scans']} unseen scans of {found['patients']} patients\n")
    click.echo(f"temperature {fit['temperature']:.3f}")
    click.echo(f"calibration error {fit['ece_before']:.3f} -> {fit['ece_after']:.3f}\n")
    rows = [
        (label, limits["scans"][label], _least(limits["lowest"][label], limits["coverage"]))
        for label in LABELS
    ]
    click.echo(table(("class", "scans", f"in the {limits['coverage']:.0%} set from"), rows))
    click.echo(f"\nuncertain under {limits['confidence']:.4f} (up to {limits['doubt']:.0%} of scans)")
    for what, limit in (("a distance", limits), ("a layout's distance", found["layout"])):
        click.echo(f"refused over {what} of {limit['distance']:.3f} (up to {limit['refusal']:.1%} of scans)")


def _warn(found: dict[str, Any]) -> None:
    if found.get("calibration", {}).get("temperature") == 1.0:
        say("note: no scan is wrong, so the probabilities stay as they are; fit on more scans: --from")
    lowest = found.get("thresholds", {}).get("lowest", {})
    if always := [label for label in lowest if not lowest[label]]:
        say(f"note: {', '.join(always)} can never be ruled out, for want of scans;")
        say("      fit on more of them: --from with the scores of other folds (see --help)")


def _least(lowest: float, coverage: float) -> str:
    return f"{lowest:.4f}" if lowest else f"always: under {coverage / (1 - coverage):.0f} scans"
