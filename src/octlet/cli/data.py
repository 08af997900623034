"""`octlet data`: check, split or simulate labelled scans."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from octlet.cli import ui
from octlet.core.errors import InputError, UsageError
from octlet.core.labels import LABELS

if TYPE_CHECKING:
    from octlet.data.audit import Audit


@click.group()
def command() -> None:
    """Check, split or simulate labelled scans."""


@command.command()
@click.argument("scans", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("octlet-check"), show_default=True, help="Folder."
)
@ui.json_option
def check(scans: Path, out: Path, as_json: bool) -> int:
    """Index the scans in DIR and report what would falsify a result.

    DIR holds class folders CNV, DME, DRUSEN and NORMAL, alone or under train, val and test; a MedMNIST .npz
    file or a CSV file with path,label,patient[,split] will do as well. Writes index.csv, audit.json and
    audit.html. Exit code 3 if scans cannot be read; all others are checked all the same.
    """
    from octlet.data.stages import check_scans

    checked = check_scans(scans, out, ui.bar("reading scans"))
    if as_json:
        ui.print_json(checked.document)
    else:
        _print_audit(checked.audit)
        for finding in checked.findings:
            mark = "!" if finding.serious else "-"
            click.echo(f"\n{mark} {finding.title}\n  {finding.why}\n  {finding.action}")
    ui.say(f"\nwrote index.csv, audit.json and audit.html to {out}")
    ui.next_step(f"octlet data split {shlex.quote(str(out / 'index.csv'))}")
    return InputError.exit_code if checked.audit.unreadable else 0


@command.command()
@click.argument("index", metavar="INDEX.csv", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="File; with --folds, folder. [beside INDEX.csv]")
@click.option("--val", type=float, help="Share of scans to validate on. [0.15, with --folds 0.1]")
@click.option("--test", type=float, help="Share of scans to test on. [0.25]")
@click.option("--folds", type=int, help="Cross-validation folds instead of one split.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the shuffle.")
@click.option("--keep-given", is_flag=True, help="Keep the given test split; draw only validation scans.")
@click.option("--given", is_flag=True, help="Keep the given train, val and test split; draw nothing.")
@ui.json_option
def split(
    index: Path,
    out: Path | None,
    val: float | None,
    test: float | None,
    folds: int | None,
    seed: int,
    keep_given: bool,
    given: bool,
    as_json: bool,
) -> None:
    """Split an index into train, val and test, or folds.

    No patient and no picture crosses, classes are spread evenly, and scans of one picture with different
    labels go to quarantine. The same index and seed give the same bytes.
    """
    from octlet.data.stages import split_index

    if (folds is not None) + keep_given + given + (test is not None) > 1:
        rule = "--folds, --keep-given, --given and --test exclude each other: each says what is tested on"
        raise UsageError(rule, remedy="give one of them")
    shares = {name: share for name, share in (("val", val), ("test", test)) if share is not None}
    made = split_index(index, out, folds=folds, shares=shares, seed=seed, keep_given=keep_given, given=given)
    if made.note:
        ui.say(f"note: {made.note}")
    if as_json:
        verified = not made.note
        ui.print_json({"seed": seed, "near_duplicates_verified": verified, "files": made.summaries})
    else:
        _print_splits(made.summaries)
    for summary in made.summaries:
        for missing in summary["without"]:
            ui.say(f"warning: {summary['file']}: {missing}")
    ui.next_step(f"octlet train --data {shlex.quote(made.scans)} --split {shlex.quote(str(made.files[0]))}")


@command.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--n", type=click.IntRange(min=1), default=400, show_default=True, help="Scans.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of every scan.")
@click.option("--masks", is_flag=True, help="Write the lesions' masks too.")
@ui.json_option
def phantom(out: Path, n: int, seed: int, masks: bool, as_json: bool) -> None:
    """Simulate labelled B-scans into the folder OUT.

    For trying things out without patients' data: nothing measured on them says anything about eyes.
    """
    from octlet.data.phantom import write_phantoms

    count = write_phantoms(out, n=n, seed=seed, masks=masks, progress=ui.bar("simulating scans"))
    if as_json:
        ui.print_json({"folder": str(out), "scans": count, "seed": seed, "masks": masks})
    else:
        click.echo(f"{count} simulated scans in {out}")
    ui.next_step(f"octlet data check {shlex.quote(str(out))}")


def _print_audit(audit: "Audit") -> None:
    patients = f"known patients {audit.patients:,}" if audit.patients else "patients unknown"
    click.echo(f"scans {audit.scans:,}, {patients}, unreadable {len(audit.unreadable):,}\n")
    given = [split for split in audit.splits if split] if len(audit.splits) > 1 else []
    rows = [
        [label, count["scans"], count["patients"], *(audit.splits[split][label] for split in given)]
        for label, count in audit.classes.items()
    ]
    click.echo(ui.table(["class", "scans", "patients", *(f"in {split}" for split in given)], rows))
    shapes = sorted(audit.shapes.items(), key=lambda item: -sum(item[1].values()))
    shown = [[shape, sum(counts.values()), *counts.values()] for shape, counts in shapes[:10]]
    click.echo("\n" + ui.table(["shape", "scans", *LABELS], shown))
    if len(shapes) > len(shown):
        click.echo(f"and {len(shapes) - len(shown)} rarer shapes")
    click.echo(f"right by shape alone {audit.shape_accuracy:.1%}, by majority {audit.majority_accuracy:.1%}")


def _print_splits(results: Sequence[dict[str, Any]]) -> None:
    for result in results:
        sets = {name: held for name, held in result["sets"].items() if held["all_scans"]}
        headers = ["class", *(word for name in sets for word in (name, "patients"))]
        rows: list[list[object]] = []
        for label in LABELS:
            counts = [(held["scans"][label], held["patients"][label]) for held in sets.values()]
            rows.append([label, *(number for pair in counts for number in pair)])
        totals = [(held["all_scans"], held["all_patients"]) for held in sets.values()]
        rows.append(["all", *(number for pair in totals for number in pair)])
        click.echo(f"{result['file']}: {result['groups']} groups\n{ui.table(headers, rows)}\n")
        for entry in result["quarantined"][:10]:
            click.echo(f"quarantined: {entry['path']}: {entry['reason']}")
        if len(result["quarantined"]) > 10:
            click.echo(f"and {len(result['quarantined']) - 10} more, in the file")
