"""`octlet serve`."""

import importlib.util
import os
from pathlib import Path

import click

from octlet.cli.options import chosen, engine_option, model_option, threads_option
from octlet.cli.ui import json_option, next_step, print_json, say
from octlet.core.errors import UsageError
from octlet.core.labels import NOTICE
from octlet.runtime.predictor import Predictor
from octlet.runtime.verify import verified


@click.command()
@model_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one."
)
@click.option("--token-file", type=click.Path(path_type=Path), help="Holds the token that requests carry.")
@click.option(
    "--max-upload",
    type=click.IntRange(1, 1000),
    default=20,
    show_default=True,
    metavar="MB",
    help="Of a request.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, 3600, min_open=True),
    default=30.0,
    show_default=True,
    metavar="S",
    help="Seconds for a request, from its headers to its answer.",
)
@click.option(
    "--queue",
    type=click.IntRange(0, 1000),
    default=16,
    show_default=True,
    metavar="N",
    help="Requests that may wait; more are refused.",
)
@click.option(
    "--batch",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Waiting scans to compute at once; what is faster if not given.",
)
@engine_option
@threads_option
@json_option
def command(
    model: Path,
    host: str,
    port: int,
    token_file: Path | None,
    max_upload: int,
    timeout: float,
    queue: int,
    batch: int | None,
    engine: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Answer predictions over HTTP until it is stopped.

    It listens at 127.0.0.1, where only this machine can ask: scans are patients' data, and what is sent to
    another address travels unencrypted. At any other address a token is needed, in --token-file or the
    environment variable OCTLET_TOKEN, and every request must carry it.

    POST an image, or a form with several, to /api/predict. /api/health tells the model, /metrics what was
    done, /api/openapi.json the rest. The model file is verified first; if this machine computes something
    else than the exporting one did, the exit code is 5. SIGTERM and Ctrl-C finish what was accepted.
    """
    _need_extra()
    from octlet.serve.app import App
    from octlet.serve.batch import worth
    from octlet.serve.limits import Limits
    from octlet.serve.server import bind, read_token, serve, url_of

    token = read_token(token_file, os.environ.get("OCTLET_TOKEN"))
    choice = chosen(engine, threads)
    at_work = choice.threads or os.cpu_count() or 1
    with bind(host, port, token=token is not None) as bound:
        say(f"verifying {model}")
        predictor = verified(Predictor.open(model, engine=choice.engine, threads=at_work))
        at_once = batch or worth(choice.engine, at_work)
        limits = Limits(upload=max_upload * 1_000_000, seconds=timeout, waiting=queue, batch=at_once)
        app = App(predictor, limits=limits, token=token, log=say)
        serve(app, bound, lambda: _tell(predictor, url_of(bound), token is not None, as_json))
    say("stopped")


def _need_extra() -> None:
    for name in ("starlette", "uvicorn", "python_multipart"):
        if importlib.util.find_spec(name) is None:
            rule = f"this verb needs the Python package '{name}'"
            raise UsageError(rule, remedy='pip install "octlet[serve]"')


def _tell(predictor: Predictor, url: str, token: bool, as_json: bool) -> None:
    identity = predictor.identity
    if as_json:
        print_json({"notice": NOTICE, "url": url, "model": identity, "verified": True, "token": token})
    else:
        click.echo(f"{identity['name']} on {identity['engine']} answers at {url}\n{NOTICE}")
    bearer = '-H "Authorization: Bearer $OCTLET_TOKEN" ' if token else ""
    next_step(f"curl {bearer}-F scan=@SCAN {url}/api/predict")
