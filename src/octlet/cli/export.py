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
@click.option(
    "--second-look",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    metavar="P",
    help="Look again, mirrored, at scans with no class of this probability; 0: never.",
)
@click.option("--licence", default="", help="Licence and attribution of the weights, for the model card.")
@click.option(
    "--images",
    type=click.IntRange(min=200),
    default=512,
    show_default=True,
    help="Simulated scans to compare a quantised network on.",
)
@click.option("--litert", is_flag=True, help="Carry the network for LiteRT too, beside ONNX.")
@json_option
def command(
    run: Path,
    out: Path,
    name: str,
    prior_shift: float,
    second_look: float,
    licence: str,
    images: int,
    litert: bool,
    as_json: bool,
) -> None:
    """Write a trained run as one model file.

    The file holds the network in ONNX, golden vectors for a self-check, every SHA-256 and a model card. It is
    written only if ONNX Runtime computes what torch does, and, for a quantised run, if it computes every
    layer in integers and gives the labels that training simulated. With --litert it holds the same network
    for LiteRT, to which all of that applies as well.
    """
    say(f"exporting {run}")
    result = export_run(
        run,
        out,
        name=name,
        licence=licence,
        prior_shift=prior_shift,
        second_look=second_look,
        images=images,
        litert=litert,
        progress=bar("comparing images"),
    )
    if as_json:
        print_json(result)
    else:
        click.echo(f"{result['model']}: {result['name']}, {result['bytes']:,} bytes")
        click.echo(f"{result['parameters']:,} parameters, input {result['size']} x {result['size']}")
        click.echo(f"SHA-256 {result['sha256']}\n")
        _print_parity(result)
        if "integers" in result:
            _print_integers(result)
        if litert:
            click.echo(f"LiteRT runs {_counted(result['litert']['operators'])}")
    next_step(f"octlet verify {quote(str(out))}")


def _print_parity(result: dict[str, Any]) -> None:
    found = {"ONNX Runtime": result["parity"]}
    if "litert" in result:
        found["LiteRT"] = result["litert"]["parity"]
    rows = [(output, *(f"{each[output]:.1e}" for each in found.values())) for output in result["parity"]]
    click.echo("How far from torch, as shares of each output's range:")
    click.echo(table(("output", *found), rows))


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
    layers = result["layers"]
    click.echo(
        f"layer by layer, given the same integers: {layers['other']:,} of {layers['values']:,} values "
        f"are others, by {layers['steps']} step" + "s" * (layers["steps"] != 1)
    )
    click.echo(f"ONNX Runtime runs {_counted(result['operators'])}")


def _counted(operators: dict[str, int]) -> str:
    return ", ".join(
        f"{count} {name}" for name, count in sorted(operators.items(), key=lambda each: -each[1])
    )
