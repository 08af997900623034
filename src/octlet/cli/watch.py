"""`octlet watch`."""

import hashlib
import json
import os
import signal
from pathlib import Path
from shlex import quote
from typing import Any

import click

from octlet.cli.options import chosen, engine_option, model_option, threads_option
from octlet.cli.ui import next_step, say
from octlet.core.errors import InputError, OctletError, UsageError
from octlet.core.labels import NOTICE
from octlet.runtime.predictor import Predictor
from octlet.runtime.verify import verified
from octlet.watch.command import Alerts, parse_command
from octlet.watch.deliver import CsvFile, JsonFiles, Sink
from octlet.watch.journal import FAILED, UNREADABLE, WAITING, Entry, Journal
from octlet.watch.loop import signals, watch, watch_once
from octlet.watch.watcher import Clock, Settings, Tell, Watcher

_PATH = click.Path(path_type=Path)
_SECONDS = click.FloatRange(0, 86400)
_D = Settings()


@click.command()
@model_option
@click.argument("folder", type=_PATH, metavar="DIR")
@click.option("--csv", "csv_file", type=_PATH, help="Append results to this file.")
@click.option("--out", type=_PATH, metavar="DIR", help="Write results as JSON into this folder.")
@click.option(
    "--on-urgent", metavar="COMMAND", help="Run for each urgent scan, with its path and its result's."
)
@click.option(
    "--timeout", type=_SECONDS, default=30.0, show_default=True, metavar="S", help="Of the command."
)
@click.option("--once", is_flag=True, help="Take what is complete now, then end.")
@click.option("--new-only", is_flag=True, help="Leave out what lies there at the journal's first start.")
@click.option("--subfolders/--no-subfolders", default=True, show_default=True, help="Take their scans, too.")
@click.option("--interval", type=_SECONDS, default=_D.interval, show_default=True, metavar="S",
              help="Between two looks at the folder.")  # fmt: skip
@click.option("--settle", type=_SECONDS, default=_D.settle, show_default=True, metavar="S",
              help="Without a change until a file is read.")  # fmt: skip
@click.option("--deadline", type=_SECONDS, default=_D.deadline, show_default=True, metavar="S",
              help="Until a file that cannot be decoded is told unreadable.")  # fmt: skip
@click.option("--journal", type=_PATH, metavar="FILE", help="On a local disk; one for each DIR if not given.")
@click.option("--show-names", is_flag=True, help="Tell files' names on stdout and stderr, too.")
@engine_option
@threads_option
@click.option("--json", "as_json", is_flag=True, help="Print each event as one line of JSON.")
def command(model: Path, folder: Path, **options: Any) -> int:
    """Predict what a scanner exports into a folder, each scan once, urgent ones first.

    Images and volumes are taken as by 'octlet predict', once they have not changed between two looks. A
    result is written beside its file as NAME.octlet.json, or to --out or --csv. A journal keeps what was
    done: after a kill, a power cut or a full disk nothing is predicted twice and nothing is lost. An urgent
    scan's result is written, and --on-urgent started, before the next scan is predicted.

    The command gets two arguments, the scan's path and its result's; no shell is called. What fails, or takes
    longer than --timeout, is run up to three times.

    Names of files may hold names of patients: what is printed has the journal's numbers instead. SIGTERM and
    Ctrl-C end it after the scan that is being predicted. With --once the exit code is 3 where a file could
    not be read, and 1 where a command failed.
    """
    if not folder.is_dir():
        raise InputError(
            "no such folder", path=folder, remedy="give the folder that the scanner exports into"
        )
    tell = _json_lines if options["as_json"] else _lines
    watcher = _watcher(model, folder.resolve(), options, _without_names(tell, options["show_names"]))
    try:
        with signals(watcher) as got:
            (watch_once if options["once"] else watch)(watcher)
        watcher.tell({"event": "stopped", "scans": dict(watcher.counts), "journal": watcher.journal.counts()})
    finally:
        watcher.journal.close()
    if signal.SIGINT in got:
        raise KeyboardInterrupt
    return _end(watcher, model, folder, options)


def _watcher(model: Path, folder: Path, options: dict[str, Any], tell: Tell) -> Watcher:
    """Put together what watches; everything that can be refused is refused here, before the first scan."""
    words = parse_command(options["on_urgent"]) if options["on_urgent"] else None
    sink = _sink(folder, options["csv_file"], options["out"])
    choice = chosen(options["engine"], options["threads"])
    place = options["journal"] or _default_journal(folder)
    say(f"verifying {model}")
    predictor = verified(Predictor.open(model, engine=choice.engine, threads=choice.threads or None))
    journal = Journal(place.absolute(), folder)
    names = ("interval", "settle", "deadline", "subfolders", "new_only")
    settings = Settings(**{name: options[name] for name in names})
    watcher = Watcher(folder, predictor, journal, sink, tell, settings, Clock())
    if words is not None:
        watcher.alerts = Alerts(
            words,
            journal,
            lambda entry: (folder / entry.path, sink.place(entry).absolute()),
            watcher.clock.monotonic,
            lambda *how: tell(_alert_event(*how)),
            seconds=options["timeout"],
        )
    identity = predictor.identity
    tell({"event": "started", "notice": NOTICE, "model": identity, "journal": str(journal.path)})
    return watcher


def _sink(folder: Path, csv_file: Path | None, out: Path | None) -> Sink:
    if csv_file is not None and out is not None:
        raise UsageError("--csv and --out cannot go together", remedy="give one of them")
    return JsonFiles(folder, out) if csv_file is None else CsvFile(csv_file)


def _default_journal(folder: Path) -> Path:
    base = os.environ.get("XDG_STATE_HOME")
    try:
        state = Path(base) if base else Path.home() / ".local" / "state"
    except RuntimeError as error:
        raise UsageError(
            "there is no home folder to keep a journal in", remedy="give --journal FILE"
        ) from error
    return state / "octlet" / "watch" / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}.sqlite"


def _end(watcher: Watcher, model: Path, folder: Path, options: dict[str, Any]) -> int:
    if options["once"]:
        if watcher.held or watcher.counts[UNREADABLE]:
            return InputError.exit_code
        if watcher.alerts and watcher.alerts.failed:
            return OctletError.exit_code
        next_step(f"octlet watch -m {quote(str(model))} {quote(str(folder))}")
    return 0


# What is told -------------------------------------------------------------------------------------------


def _alert_event(entry: Entry, alert: str, exit_code: int | None, fault: str) -> dict[str, Any]:
    told = {"event": "command", "id": entry.key, "file": entry.path, "state": alert, "exit_code": exit_code}
    return told | ({"error": fault} if fault else {})


def _without_names(tell: Tell, show: bool) -> Tell:
    """Leave files' names out: they may hold names of patients, and logs are kept and sent."""
    return tell if show else lambda event: tell({key: value for key, value in event.items() if key != "file"})


def _json_lines(event: dict[str, Any]) -> None:
    click.echo(json.dumps(event, ensure_ascii=True, allow_nan=False))


def _lines(event: dict[str, Any]) -> None:
    kind = event["event"]
    where = " ".join(str(event[key]) for key in ("id", "file") if event.get(key))
    if kind == "started":
        click.echo(f"{event['model']['name']} on {event['model']['engine']} watches\n{NOTICE}")
        say(f"journal: {event['journal']}")
    elif kind == "delivered":
        click.echo(f"{where}  {_outcome(event)}")
    elif kind == "held":
        say(f"octlet: {where}: {event['error']}; waiting for the rest of it")
    elif kind == "command" and event["state"] != "done":
        then = {WAITING: "it is run again", FAILED: "it is not run again"}[event["state"]]
        say(f"octlet: {where}: the command {event['error']}; {then}")
    elif kind == "fault":
        say(f"octlet: {event['message']} ({event['remedy']}); waiting")
    elif kind == "resumed":
        say("octlet: it goes on")
    elif kind == "left-out":
        say(f"{event['files']} files were there before and are left out")
    elif kind == "stopped":
        say(_summary(event))


def _outcome(event: dict[str, Any]) -> str:
    if "error" in event:
        return f"unreadable: {event['error']}"
    first = f"{event['abstain']}; " if event["abstain"] else ""
    of = f"{event['label']}, {event['scans']} B-scans, {event['refused']} refused" if "scans" in event else ""
    return f"{event['outcome']}: {first}{of or event['explanation']}"


def _summary(event: dict[str, Any]) -> str:
    scans, journal = event["scans"], event["journal"]
    predicted = sum(scans.values()) - scans.get(UNREADABLE, 0)
    parts = [
        f"{predicted} predicted",
        f"{scans.get('urgent', 0)} urgent",
        f"{scans.get('unknown', 0)} refused",
    ]
    parts += [f"{scans.get(UNREADABLE, 0)} unreadable", f"{journal['pending']} incomplete"]
    parts += [f"{journal['undelivered']} not delivered"] if journal["undelivered"] else []
    return "octlet: " + ", ".join(parts)
