"""What is delivered of a scan: the document of `octlet predict --json`, and rows of the same for a table."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from octlet.core.errors import InputError
from octlet.core.labels import NOTICE
from octlet.core.prediction import CSV_COLUMNS
from octlet.watch.content import Content
from octlet.watch.judge import Judged

COLUMNS = ("id", "predicted", *CSV_COLUMNS, "error", "sha256")


def result_of(
    key: str,
    content: Content,
    model: dict[str, Any],
    wall: float,
    judged: Judged | None,
    errors: Sequence[tuple[str, InputError]] = (),
) -> dict[str, Any]:
    """Return the plain JSON that the journal keeps: `document` for a file, `rows` of `COLUMNS` for a table.

    Args:
        key: of the journal's row.
        content: of the file.
        model: `Predictor.identity`.
        wall: seconds since 1970.
        judged: what is said of the file's scans; None where it could not be read.
        errors: names, and what is wrong with them.
    """
    when = datetime.fromtimestamp(wall, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    predictions = () if judged is None else judged.predictions
    document = {
        "notice": NOTICE,
        "model": model,
        "eyes": [] if judged is None else [eye.as_dict() for eye in judged.eyes],
        "predictions": [each.as_dict() for each in predictions],
        "errors": [error.as_dict() | {"file": name} for name, error in errors],
        "watch": {"id": key, "predicted": when, "sha256": content.sha256, "bytes": content.size},
    }
    rows = [(key, when, *each.as_row(), "", content.sha256) for each in predictions]
    for name, error in errors:
        known = {"file": name, "notice": NOTICE}
        rows.append((key, when, *(known.get(c, "") for c in CSV_COLUMNS), error.rule, content.sha256))
    return {"document": document, "rows": rows}
