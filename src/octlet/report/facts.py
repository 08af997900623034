"""What a page says of the model: which file it is, and how good it is known to be."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from octlet.runtime.predictor import Grid, Predictor


@dataclass(frozen=True)
class Facts:
    """A model, for people.

    Attributes:
        name, sha256, engine: which file computed, and by what.
        grid: where the cells of the network's maps lie in its input.
        coverage: of the prediction sets, 0 to 1; None for a model file without.
        fitted: how many unseen scans calibration was fitted on, or None.
        data: what the model was trained on, in a clause; may be empty.
        figures: (name, value with its interval) of the model file's own figures, in its order.
    """

    name: str
    sha256: str
    engine: str
    grid: Grid
    coverage: float | None
    fitted: int | None
    data: str
    figures: tuple[tuple[str, str], ...]

    @property
    def intervals(self) -> bool:
        """Whether any of the figures has an interval."""
        return any("(" in text for _, text in self.figures)


def facts_of(predictor: Predictor) -> Facts:
    """Return what is known of a model file that is open."""
    manifest, trust = predictor.bundle.manifest, predictor.trust
    return Facts(
        name=manifest.name,
        sha256=str(predictor.identity["sha256"]),
        engine=predictor.engine.name,
        grid=predictor.grid,
        coverage=None if trust is None else trust.thresholds.coverage,
        fitted=None if trust is None else trust.calibration.scans,
        data=_data(manifest.training.get("data")),
        figures=tuple(figures(manifest.metrics)),
    )


def _data(data: Any) -> str:
    if not isinstance(data, Mapping) or not isinstance(data.get("scans"), int):
        return ""
    patients = data.get("patients")
    of = f" of {patients:,} patients" if isinstance(patients, int) else ""
    return f"{data['scans']:,} scans{of}"


def figures(metrics: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Yield each figure of a manifest's `metrics` as (name, text), those of mappings in it too.

    A mapping of value, low and high is a figure with its interval; a bare number has none.
    """
    for key, value in metrics.items():
        name = f"{above}{key}".replace("_", " ")
        if isinstance(value, Mapping) and {"value", "low", "high"} <= value.keys():
            numbers = [value[part] for part in ("value", "low", "high")]
            if all(isinstance(each, int | float) for each in numbers):
                yield _named(name), f"{numbers[0]:.3f} ({numbers[1]:.3f} to {numbers[2]:.3f})"
        elif isinstance(value, Mapping):
            yield from figures(value, f"{name} ")
        elif isinstance(value, float):
            yield _named(name), f"{value:.3f}"
        elif isinstance(value, int) and not isinstance(value, bool):
            yield _named(name), f"{value:,}"


def _named(key: str) -> str:
    for above, of in (("val ", "validation"), ("cross validation ", "in folds")):
        if key.startswith(above):
            return f"{key.removeprefix(above)}, {of}"
    return key
