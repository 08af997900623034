"""Short names for what is compared, and file names that go with them."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from octlet.core.errors import UsageError

MOST = 60

# Names that Octlet itself gives to files and folders, which tell one model from another no better than "it".
_GENERIC = {"predictions", "evaluation", "model", "train", "metrics"}
_SUFFIXES = {".csv", ".octlet", ".jsonl"}


def default_names(paths: Sequence[Path], told: Sequence[str | None]) -> list[str]:
    """Return a name for each path: the one `told` of it, or the end of the path that says something.

    Where two would be alike, both get as many folders in front as tell them apart. Raises UsageError where
    nothing does: one path stands twice.
    """
    names = [name or _tail(path, 1) for path, name in zip(paths, told, strict=True)]
    for depth in range(1, 1 + max(len(path.parts) for path in paths)):
        times = Counter(names)
        names = [
            _tail(path, depth) if times[name] > 1 else name for path, name in zip(paths, names, strict=True)
        ]
    check_names(names)
    return names


def check_names(names: Sequence[str]) -> None:
    """Raise UsageError unless every name is one short printable line and none stands twice."""
    for name, times in Counter(names).items():
        if times > 1:
            raise UsageError(f"{times} are called '{name}'", remedy="give each a name of its own")
        if not name.strip() or not name.isprintable():
            raise UsageError(f"a name is one printable line, not {name!r}", remedy="give another name")


def file_names(names: Sequence[str], taken: Sequence[str] = ()) -> list[str]:
    """Return a file name without ending for each name, unique and safe on every file system.

    `taken` are names, without ending, that are not to be used.
    """
    used = {name.casefold() for name in taken}
    files = []
    for name in names:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:MOST] or "model"
        number, file = 2, stem
        while file.casefold() in used:
            number, file = number + 1, f"{stem}-{number}"
        used.add(file.casefold())
        files.append(file)
    return files


def _tail(path: Path, depth: int) -> str:
    whole = path.with_suffix("") if path.suffix.lower() in _SUFFIXES else path
    parts = [part for part in whole.parts if part not in (path.anchor, "..")]
    while len(parts) > 1 and parts[-1] in _GENERIC:
        parts.pop()
    return "/".join(parts[-depth:]) or str(path)
