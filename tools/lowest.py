"""Print the oldest versions that pyproject.toml lets a device install, as pip takes them: `make lowest`."""

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
LOWER = re.compile(r"([\w-]+)>=([\d.]+)")


def lowest(project: Path = PROJECT) -> list[str]:
    """Return "name==version" for each dependency; ValueError for one without a lower bound."""
    found = []
    for wanted in tomllib.loads(project.read_text("utf-8"))["project"]["dependencies"]:
        bound = LOWER.match(wanted)
        if bound is None:
            raise ValueError(f"{project}: no lower bound: {wanted}")
        found.append("==".join(bound.groups()))
    return found


if __name__ == "__main__":
    print(*lowest())
