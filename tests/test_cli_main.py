import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from octlet.cli.main import VERBS


def test_help_names_every_verb_and_the_notice(octlet):
    result = octlet("--help")
    assert result.returncode == 0
    assert all(verb in result.stdout for verb in VERBS)
    assert "Not a medical device" in result.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_json(octlet, verb):
    words = {"data": ["data", "check"], "pi": ["pi", "package"]}.get(verb, [verb])
    result = octlet(*words, "--help")
    assert result.returncode == 0
    assert "--json" in result.stdout


def test_version_is_the_packages(octlet):
    assert octlet("--version").stdout.strip() == f"octlet {version('octlet')}"


def test_a_usage_error_is_one_line_and_ends_with_2(octlet):
    result = octlet("predikt")
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1


def test_with_json_an_error_is_one_document(octlet):
    result = octlet("export", "no-such-run", "--json")
    assert result.returncode == 3
    error = json.loads(result.stdout)["error"]
    assert error["code"] == "bad-input"
    assert error["file"] == "no-such-run"
    assert error["remedy"]


def test_no_arguments_show_the_help(octlet):
    result = octlet()
    assert result.returncode == 2
    assert "Usage: octlet [OPTIONS] COMMAND" in result.stderr
    assert "Missing argument" in octlet("predict").stderr


@pytest.mark.parametrize("words", [["--version"], ["predict", "--help"]])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_told(words):
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "octlet", *words]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert result.returncode == 1
    assert "the result cannot be written: No space left" in result.stderr
    assert "Traceback" not in result.stderr
