"""Every error that Octlet raises on purpose, and the exit code each one ends a command with.

OctletError                1   anything below, or a fault that has no better name
|-- UsageError             2   the command or its settings are wrong
|-- InputError             3   a scan, a folder, an index or a split is not what it must be
|-- ModelFileError         4   a model file is missing, damaged or not a model file
`-- GateError              5   a quality gate was not passed
"""

from pathlib import Path


class OctletError(Exception):
    """A fault told in three parts: where (`path`), what rule it breaks, and what to do about it.

    `str(error)` is one line: ``path: rule (remedy)``.
    """

    exit_code = 1
    code = "error"

    def __init__(self, rule: str, *, path: str | Path | None = None, remedy: str = "") -> None:
        self.rule = rule
        self.path = None if path is None else str(path)
        self.remedy = remedy
        super().__init__(rule, path, remedy)

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        then = f" ({self.remedy})" if self.remedy else ""
        return f"{where}{self.rule}{then}"

    def as_dict(self) -> dict[str, str | None]:
        """Return the one JSON shape of an error: code, file, message, remedy."""
        return {"code": self.code, "file": self.path, "message": self.rule, "remedy": self.remedy or None}


class UsageError(OctletError):
    """The command line, a recipe or a setting is wrong."""

    exit_code = 2
    code = "usage"


class InputError(OctletError):
    """A file or folder that was given is missing, unreadable or against a rule."""

    exit_code = 3
    code = "bad-input"


class ModelFileError(OctletError):
    """A model file is missing, damaged, of an unknown version or not a model file."""

    exit_code = 4
    code = "bad-model-file"


class GateError(OctletError):
    """A quality gate was not passed; what was measured is in the message."""

    exit_code = 5
    code = "gate"
