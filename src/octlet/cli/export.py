"""`octlet export`."""

from pathlib import Path
from shlex import quote
from typing import Any

import click

from octlet.cli.ui import bar, json_option, next_step, print_json, say, table
from octlet.export.package import export_run


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--out", default="model.octlet", type=click.Path(path_type=Path), show_default=True, help="Model file."
)
@click.option("--name", default="", help="Name of the model; the run folder's if not given.")
@click.option(
    "--prior-shift",
    type=click.FloatRange(0, 2),
    default=0.0,
    show_default=True,
    help="Call classes with few training scans more readily; choose it on validation scans.",
)
@click.option("--licence", default="", help="Licence and attribution of the weights, for the model card.")
@click.option(
    "--images",
    type=click.IntRange(min=200),
    default=512,
    show_default=True,
    help="Simulated scans to compare a quantised network on.",
)
@json_option
def command(
    run: Path, out: Path, name: str, prior_shift: float, licence: str, images: int, as_json: bool
) -> None:
    """Write a trained run as one model file.

    The file holds the network in ONNX, golden vectors for a self-check, every SHA-256 and a model card. It is
    written only if ONNX Runtime computes what torch does, and, for a quantised run, if it computes every
    layer in integers and gives the labels that training simulated.
    """
    say(f"exporting {run}")
    result = export_run(
        run,
        out,
        name=name,
        licence=licence,
        prior_shift=prior_shift,
        images=images,
        progress=bar("comparing images"),
    )
    if as_json:
        print_json(result)
    else:
        click.echo(f"{result['model']}: {result['name']}, {result['bytes']:,} bytes")
        click.echo(f"{result['parameters']:,} parameters, input {result['size']} x {result['size']}")
        click.echo(f"SHA-256 {result['sha256']}\n")
        rows = [(output, f"{value:.1e}") for output, value in result["parity"].items()]
        click.echo(table(("output", "torch against ONNX Runtime, share of range"), rows))
        if "integers" in result:
            _print_integers(result)
    next_step(f"octlet verify {quote(str(out))}")


def _print_integers(result: dict[str, Any]) -> None:
    rows = [
        (
            f"simulated against {name}",
            parity["images"],
            f"{parity['same']:.2%}",
            f"{parity['agreement']:.2%}",
            f"{parity['logits']:.2%}",
        )
        for name, parity in result["integers"].items()
    ]
    click.echo(
        "\n"
        + table(("rounding", "images", "same label", "or a tie", "logits off, share of range"), rows)
        + "\n"
    )
    counts = sorted(result["operators"].items(), key=lambda each: -each[1])
    click.echo("ONNX Runtime runs " + ", ".join(f"{count} {name}" for name, count in counts))
