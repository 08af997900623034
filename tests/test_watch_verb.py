"""`octlet watch` as a user, a service manager and a kill meet it."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from easy import band
from PIL import Image

from octlet.cli.main import main
from octlet.core.bundle import GOLDEN, open_bundle, write_bundle
from octlet.core.labels import NOTICE, URGENCY
from octlet.runtime.predictor import Predictor
from octlet.runtime.verify import dump_golden, read_golden
from octlet.watch import command

PATIENCE = 60  # seconds, for what is there at once unless it is broken
NAME = "Erika-Mustermann"


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four scans and a file that is cut short, under a patient's name."""
    root = tmp_path / "export"
    rng = np.random.default_rng(3)
    for number in range(4):
        place = root / NAME / f"{NAME}-{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(band(number, rng)).save(place)
    (root / "cut.png").write_bytes(place.read_bytes()[:99])
    return root


def words(model: Path, folder: Path, *more: object) -> list[str]:
    return ["watch", "-m", str(model), str(folder), "--settle", "0", "--interval", "0", *map(str, more)]


def run(capsys: pytest.CaptureFixture[str], *args: Any) -> tuple[int, str, str]:
    code = main(words(*args))
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def events(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_once(model_file: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, model_file, folder, "--once")
    assert code == 3
    assert out.splitlines()[1] == NOTICE
    assert len(out.splitlines()) == 6
    assert "waiting for the rest of it" in err
    assert "4 predicted" in err
    assert "1 incomplete" in err
    assert NAME not in out + err, "a patient's name in the log"
    predicted = Predictor.open(model_file, threads=1)
    for scan in sorted((folder / NAME).glob("*.png")):
        document = json.loads(scan.with_name(f"{scan.name}.octlet.json").read_text())
        assert set(document) == {"notice", "model", "eyes", "predictions", "errors", "watch"}
        assert document["predictions"][0]["file"] == f"{NAME}/{scan.name}"
        assert document["model"] == predicted.identity
    (folder / "cut.png").unlink()
    code, out, err = run(capsys, model_file, folder, "--once", "--show-names")
    assert (code, len(out.splitlines())) == (0, 2)
    assert err.splitlines()[-1].startswith("next: octlet watch ")


def test_json_lines_and_a_table(
    model_file: Path,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command, "PAUSES", (0.0,))
    monkeypatch.setitem(URGENCY, "NORMAL", "urgent")  # the small net knows nothing else
    table, journal = tmp_path / "out" / "r.csv", tmp_path / "j.sqlite"
    more = ("--once", "--json", "--csv", table, "--journal", journal, "--deadline", 0, "--on-urgent", "false")
    code, out, _ = run(capsys, model_file, folder, *more, "--show-names", "--timeout", "20")
    told = events(out)
    assert (told[0]["event"], told[0]["notice"], told[-1]["event"]) == ("started", NOTICE, "stopped")
    results = [each for each in told if each["event"] == "delivered"]
    assert {each["file"] for each in results} == {"cut.png", *(f"{NAME}/{NAME}-{n}.png" for n in range(4))}
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["id"]: row["file"] for row in rows} == {each["id"]: each["file"] for each in results}
    urgent = {each["id"] for each in results if each["outcome"] == "urgent"}
    failed = {each["id"] for each in told if each["event"] == "command" and each["exit_code"] == 1}
    assert failed == urgent != set()
    assert told[-1]["journal"]["alerts_failed"] == len(urgent)
    assert code == 3
    assert not list(folder.rglob("*.json"))


@pytest.mark.parametrize(
    ("more", "rule"),
    [(["--csv", "a.csv", "--out", "b"], "--csv and --out"), (["--csv", "a.txt"], r".csv"),
     (["--on-urgent", "octlet-nothing"], "no command"), (["--settle", "-1"], "--settle")],
)  # fmt: skip
def test_usage(
    model_file: Path, folder: Path, more: list[str], rule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, model_file, folder, *more)
    assert code == 2
    assert rule in err
    assert not (folder.parent / "state").exists()


def test_what_cannot_be_watched(
    model_file: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, model_file, tmp_path / "nothing")[0] == 3
    bundle = open_bundle(model_file)
    vectors = read_golden(bundle)
    for vector in vectors:
        vector.outputs.logits[:] *= -1
    wrong = tmp_path / "wrong.octlet"
    files = {name: bundle.read(name) for name in bundle.manifest.files} | {GOLDEN: dump_golden(vectors)}
    write_bundle(wrong, bundle.manifest, files)
    assert run(capsys, wrong, folder, "--once")[0] == 5
    assert not list(folder.rglob("*.json"))


# Processes --------------------------------------------------------------------------------------------------


@pytest.fixture
def started() -> Iterator[Any]:
    """Start the real command; what still runs at the end is killed."""
    processes: list[subprocess.Popen[str]] = []

    def start(*args: Any, **environment: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "octlet", *words(*args)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def until(process: "subprocess.Popen[str]", event: str) -> dict[str, Any]:
    assert process.stdout is not None
    for line in process.stdout:
        if (told := json.loads(line))["event"] == event:
            return told
    raise AssertionError(process.communicate()[1])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_watches_until_a_signal(
    model_file: Path, folder: Path, tmp_path: Path, started: Any, number: int, code: int
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(PATIENCE)
        listener.bind(str(tmp_path / "notify"))
        told = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000000"}
        process = started(model_file, folder, "--json", **told)
        until(process, "delivered")
        late = folder / "late.png"
        late.with_name("late.png.part").write_bytes(next((folder / NAME).glob("*.png")).read_bytes())
        late.with_name("late.png.part").rename(late)
        while not late.with_name("late.png.octlet.json").exists():
            until(process, "delivered")
        process.send_signal(number)
        said = [listener.recv(99)]
        while said[-1] != b"STOPPING=1":
            said.append(listener.recv(99))
    assert said[0] == b"READY=1"
    assert b"WATCHDOG=1" in said
    assert until(process, "stopped")["scans"]
    assert process.wait(PATIENCE) == code


def test_killed_and_started_again(model_file: Path, folder: Path, tmp_path: Path, started: Any) -> None:
    table = tmp_path / "results.csv"
    (folder / "cut.png").unlink()
    for _ in range(2):
        process = started(model_file, folder, "--json", "--csv", table)
        until(process, "started")
        process.kill()
        process.wait(PATIENCE)
    process = started(model_file, folder, "--json", "--csv", table)
    until(process, "started")
    second = started(model_file, folder, "--json", "--csv", table)
    assert second.wait(PATIENCE) == 2
    process.terminate()
    process.wait(PATIENCE)
    final = started(model_file, folder, "--json", "--csv", table, "--once")
    assert final.wait(PATIENCE) == 0
    with table.open(newline="") as file:
        names = [row["file"] for row in csv.DictReader(file)]
    assert sorted(names) == sorted(f"{NAME}/{NAME}-{n}.png" for n in range(4))
