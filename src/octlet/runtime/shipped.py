"""The model file that comes with the package."""

from pathlib import Path

from octlet.core.errors import UsageError

SHIPPED = Path(__file__).parent.parent / "models" / "oct4-pi5.octlet"


def shipped() -> Path:
    """Return where it is; UsageError for an installation that came without it."""
    if not SHIPPED.is_file():
        rule = "no model file is named, and none came with this installation"
        raise UsageError(rule, remedy="give model.octlet, or set OCTLET_MODEL")
    return SHIPPED
