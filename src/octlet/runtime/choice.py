"""The engine and the threads that a user has chosen for this machine, kept in a small TOML file.

    [runtime]
    engine = "openvino"
    threads = 4

The file is named by the environment variable OCTLET_CONFIG; without it, it is octlet/config.toml in
XDG_CONFIG_HOME or in ~/.config. Other tables in it are left alone.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octlet.core.errors import UsageError
from octlet.core.files import write_text
from octlet.core.settings import from_mapping
from octlet.runtime.engine import DEFAULT, ENGINES

_TABLE = re.compile(r"\s*\[")
_RUNTIME = re.compile(r"\s*\[\s*runtime\s*\]\s*(#.*)?")
_OWN_KEY = re.compile(r"\s*(engine|threads)\s*=")


@dataclass(frozen=True)
class Choice:
    """What runs the networks on this machine; UsageError for an unknown engine or threads under 0.

    Attributes:
        engine: one of `octlet.runtime.engine.ENGINES`.
        threads: CPU threads; 0 takes every CPU.
    """

    engine: str = DEFAULT
    threads: int = 0

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise UsageError(f"unknown engine '{self.engine}'", remedy=f"one of {', '.join(ENGINES)}")
        if self.threads < 0:
            raise UsageError(f"{self.threads} threads", remedy="give 1 or more, or 0 for every CPU")


def config_path() -> Path | None:
    """Return where the choice is kept, a file that may not be there; None for a user without a home."""
    if named := os.environ.get("OCTLET_CONFIG"):
        return Path(named)
    if base := os.environ.get("XDG_CONFIG_HOME"):
        return Path(base, "octlet", "config.toml")
    try:
        return Path.home() / ".config" / "octlet" / "config.toml"
    except RuntimeError:
        return None


def read_choice(path: Path | None) -> Choice:
    """Return the choice kept in a file, or the default where there is no file.

    Raises UsageError, naming the file: it cannot be read, is no TOML, or has a key or a value that [runtime]
    does not take.
    """
    table = _parsed(_text(path), path).get("runtime", {})
    try:
        if not isinstance(table, dict):
            raise UsageError("'runtime' is not a table", remedy="write [runtime] on a line of its own")
        return from_mapping(Choice, table, "runtime")
    except UsageError as error:  # it knows the rule, not the place
        remedy = error.remedy.replace("recipes.md", "devices.md")
        raise UsageError(error.rule, path=path, remedy=remedy) from error


def write_choice(path: Path | None, choice: Choice) -> None:
    """Keep a choice: the two keys are replaced or added, every other line stays as it is.

    Raises UsageError where the file cannot be read or written, is no TOML, or is laid out in a way in which
    the two keys cannot be replaced without touching others.
    """
    import tomllib

    if path is None:
        raise UsageError("there is no home folder to keep a choice in", remedy="set OCTLET_CONFIG to a file")
    old = _text(path)
    before = _parsed(old, path)
    lines = (f'engine = "{choice.engine}"', f"threads = {choice.threads}")
    new = _with_lines(old, lines)
    own = before.get("runtime", {})
    wanted = {**before, "runtime": own | {"engine": choice.engine, "threads": choice.threads}}
    try:
        if tomllib.loads(new) != wanted:
            raise ValueError("another meaning")
        write_text(path, new)
    except ValueError as error:
        remedy = f"write these two lines under [runtime]: {'; '.join(lines)}"
        raise UsageError(
            "its layout is not one that can be changed safely", path=path, remedy=remedy
        ) from error
    except OSError as error:
        remedy = "check its rights, or set OCTLET_CONFIG to another file"
        raise UsageError(f"cannot be written: {error.strerror}", path=path, remedy=remedy) from error


def _with_lines(text: str, own: tuple[str, ...]) -> str:
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if _RUNTIME.fullmatch(line)), None)
    if start is None:
        lines += [*([""] if lines else []), "[runtime]"]
        start = len(lines) - 1
    rest = lines[start + 1 :]
    size = next((i for i, line in enumerate(rest) if _TABLE.match(line)), len(rest))
    kept = [line for line in rest[:size] if not _OWN_KEY.match(line)]
    return "\n".join([*lines[: start + 1], *own, *kept, *rest[size:]]) + "\n"


def _text(path: Path | None) -> str:
    try:
        return "" if path is None else path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        told = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        remedy = "correct it, or set OCTLET_CONFIG to another file"
        raise UsageError(f"cannot be read: {told}", path=path, remedy=remedy) from error


def _parsed(text: str, path: Path | None) -> dict[str, Any]:
    if not text:  # no choice was ever made
        return {}
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"is not TOML: {error}", path=path, remedy="correct or remove it") from error
