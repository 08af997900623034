"""`octlet quantize`."""

from pathlib import Path
from shlex import quote
from typing import Any

import click

from octlet.cli.train import bar_feedback
from octlet.cli.ui import json_option, next_step, print_json, settings_tables, table
from octlet.compress.config import METHODS, QuantConfig
from octlet.core.settings import from_mapping


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--data", required=True, type=click.Path(path_type=Path), help="The scans that the run was trained on."
)
@click.option("--method", type=click.Choice(METHODS), default="qat", show_default=True, help="See above.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the new run; RUN-METHOD.")
@click.option(
    "--weights-bits",
    type=click.IntRange(2, 8),
    help="Bits of a weight: 8; 7 for OpenVINO without VNNI.",
)
@click.option(
    "--observer",
    type=click.Choice(["min-max", "histogram", "percentile"]),
    help="How an activation's range is found.",
)
@click.option("--exclude", multiple=True, metavar="LAYER", help="Leave a layer in float: layer1.*")
@click.option("--prior-shift", type=click.FloatRange(0, 2), help="As of 'octlet export'; it belongs here.")
@click.option("--distil", type=click.FloatRange(0, 1), help="Weight of the float network's answers.")
@click.option("--epochs", type=int, help="Of the training.")
@click.option("--lr", type=float, help="Peak learning rate of the training.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="quantize.percentile=99.9, train.batch=16"
)
@click.option("--sensitivity", is_flag=True, help="Also rank the layers by what their rounding alone does.")
@click.option("--resume", is_flag=True, help="Continue a stopped training with the same settings.")
@json_option
def command(
    run: Path,
    data: Path,
    out: Path | None,
    epochs: int | None,
    lr: float | None,
    overrides: tuple[str, ...],
    sensitivity: bool,
    resume: bool,
    as_json: bool,
    **named: Any,
) -> None:
    """Quantise the network of the folder RUN, on the scans of its own split.

    ptq rounds weights and activations to 8 bits after training, with ranges calibrated on training scans.
    qat does the same, then trains with the rounding simulated. qat-linear trains with torchao's rounding of
    the final linear layer alone: a baseline, 0.02 % of a ResNet-101.

    Test scans are not read. The result is a run folder for 'octlet export'.
    """
    from octlet.compress.quant.run import quantize_run
    from octlet.data.source import open_source

    own, training = settings_tables("quantize", named, {"epochs": epochs, "lr": lr}, overrides)
    config = from_mapping(QuantConfig, own, "quantize")
    place = out or (run if run.name else run.resolve()).with_name(f"{run.resolve().name}-{config.method}")
    with bar_feedback(as_json) as feedback:
        result = quantize_run(
            run,
            open_source(data).root,
            place,
            config,
            training,
            sensitivity=sensitivity,
            resume=resume,
            feedback=feedback,
        )
    if as_json:
        print_json(result)
    else:
        _print(result)
    next_step(f"octlet export {quote(str(place))}")


def _print(result: dict[str, Any]) -> None:
    rounded, layers = result["layers"]
    click.echo(f"{result['run']}: {result['method']}, {rounded} of {layers} layers rounded,")
    judged = "on the validation fold:\n" if result["float"] else "judged by no validation scan"
    click.echo(f"{result['weights_share']:.4%} of the parameters; {judged}")
    rows = [
        (key.removeprefix("val_").replace("_", " "), f"{value:.3f}", f"{result['quantised'][key]:.3f}")
        for key, value in result["float"].items()
    ]
    if rows:
        click.echo(table(("", "float", result["method"]), rows))
    if result["sensitivity"]:
        told = ((row["layer"], f"{row['divergence']:.2e}") for row in result["sensitivity"][:10])
        click.echo("\n" + table(("most sensitive layers", "divergence, nats"), list(told)))
