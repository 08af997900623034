"""What a recipe file says, read by declared types."""

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from octlet.calibration import DOUBT, REFUSAL
from octlet.core.errors import InputError, UsageError
from octlet.core.settings import check_ranges, from_mapping, parse_override
from octlet.evaluate.bootstrap import RESAMPLES
from octlet.recipe.steps import CompressStep, GateSettings, override_step, read_steps, step_tables
from octlet.train.config import PRESETS, TrainConfig


@dataclass(frozen=True)
class DataSettings:
    """Where the scans come from: a folder, or so many phantoms simulated from a seed.

    Attributes:
        path: folder, .npz or .csv; "$NAME" reads the environment.
        phantoms: how many to simulate instead.
        seed: of the phantoms.
    """

    path: str = ""
    phantoms: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if bool(self.path) == (self.phantoms > 0):
            raise UsageError("[data] needs a path or a number of phantoms", remedy="give one of the two")


@dataclass(frozen=True)
class SplitSettings:
    """How the patients are parted.

    Attributes:
        folds: cross-validation folds, 0 for one split.
        take: train only the first so many folds, 0 for all.
        val: share of the scans for validation.
        test: share of the scans for the test (one split only).
        keep_given: keep the source's own test split.
        given: keep the source's own train, val and test split.
        seed: of the split.
    """

    folds: int = 0
    take: int = 0
    val: float = 0.15
    test: float = 0.25
    keep_given: bool = False
    given: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.folds > 0) + self.keep_given + self.given > 1:
            rule = "split.folds, split.keep_given and split.given each say what is tested on"
            raise UsageError(rule, remedy="give one of them")
        most = self.folds or 0
        check_ranges(self, "split", (("folds", 0, 1000), ("take", 0, most), ("seed", 0, 2**63 - 1)))


@dataclass(frozen=True)
class ExportSettings:
    """How the model file is made.

    Attributes:
        name: of the model, the recipe's if empty.
        licence: of the weights.
        prior_shift: see `octlet.train.prior.shift_prior`.
        litert: carry the network for LiteRT too.
        second_look: see `octlet.core.bundle.Manifest`; of the network at the end of the steps alone.
    """

    name: str = ""
    licence: str = ""
    prior_shift: float = 0.0
    litert: bool = False
    second_look: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.prior_shift <= 2:
            raise UsageError(f"export.prior_shift = {self.prior_shift}", remedy="from 0 to 2")
        if not 0 <= self.second_look <= 1:
            raise UsageError(f"export.second_look = {self.second_look}", remedy="from 0 to 1")


@dataclass(frozen=True)
class CalibrateSettings:
    """How the model file learns to doubt, on the validation fold: see `octlet.calibration.Plan`.

    Attributes:
        coverage: of the prediction sets; 0 leaves the model file as it is.
        doubt: largest share of labels to call uncertain.
        refusal: largest share of real scans to refuse.
    """

    coverage: float = 0.0
    doubt: float = DOUBT
    refusal: float = REFUSAL

    def __post_init__(self) -> None:
        if not 0 <= self.coverage < 1:
            raise UsageError(f"calibrate.coverage = {self.coverage}", remedy="from 0 to below 1")
        for name in ("doubt", "refusal"):
            if not 0 < getattr(self, name) < 1:
                raise UsageError(f"calibrate.{name} = {getattr(self, name)}", remedy="above 0 and below 1")


@dataclass(frozen=True)
class ReleaseSettings:
    """The model that ships: see `octlet.recipe.release`.

    Attributes:
        model: name of its file, "" for none.
        notes: Markdown file for its card; "" for none.
    """

    model: str = ""
    notes: str = ""

    def __post_init__(self) -> None:
        if self.model and (Path(self.model).suffix != ".octlet" or Path(self.model).name != self.model):
            rule = f"release.model = {self.model!r} is no name of a model file"
            raise UsageError(rule, remedy='for example "oct4-pi5.octlet"')
        if self.notes and not self.model:
            raise UsageError("release.notes are for the card of release.model", remedy="set both")


@dataclass(frozen=True)
class EvaluateSettings:
    """Bootstrap resamples and their seed."""

    resamples: int = RESAMPLES
    seed: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, "evaluate", (("resamples", 100, 10_000_000), ("seed", 0, 2**63 - 1)))


@dataclass(frozen=True)
class Teacher:
    """A further dense training, with settings that differ from [train].

    Attributes:
        training: its settings; no weights where it goes on.
        goes_on: it begins with the trained network of [train] instead of weights: at a larger size, say.
    """

    training: TrainConfig
    goes_on: bool = False


@dataclass(frozen=True)
class Recipe:
    """A whole recipe; each table of the TOML file is a field, and [[compress]] a list of steps.

    [[teacher]] is a list of further dense trainings: 'distill' steps learn from all of them together, or
    from those that they name.
    """

    name: str
    data: DataSettings
    split: SplitSettings = field(default_factory=SplitSettings)
    train: TrainConfig = field(default_factory=TrainConfig)
    teacher: tuple[Teacher, ...] = ()
    export: ExportSettings = field(default_factory=ExportSettings)
    calibrate: CalibrateSettings = field(default_factory=CalibrateSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    compress: tuple[CompressStep, ...] = ()
    gate: GateSettings = field(default_factory=GateSettings)
    release: ReleaseSettings = field(default_factory=ReleaseSettings)


_TABLES: dict[str, type] = {
    "data": DataSettings,
    "split": SplitSettings,
    "export": ExportSettings,
    "calibrate": CalibrateSettings,
    "evaluate": EvaluateSettings,
    "gate": GateSettings,
    "release": ReleaseSettings,
}
_KNOWN = (*_TABLES, "train", "teacher", "compress")


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file.

    `overrides` are "table.key=value" texts that win over the file; a step of `compress` is told by its number
    ("compress.1.to_macs=0.25"), a further teacher too ("teacher.1.epochs=20"), and "compress=default" gives
    the whole chain. "$NAME" stands for an
    environment variable in data.path and every train.weights; other relative paths start from the current
    folder.

    Raises:
        InputError: no such file, or not TOML.
        UsageError: an unknown table or key, a wrong type, an unset variable, steps that do not follow.
    """
    file = Path(path)
    try:
        plain = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError("no such recipe", path=file, remedy="see the folder recipes/") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"not TOML: {error}", path=file, remedy="mend the line that it names") from error
    for key in (*_TABLES, "train"):
        if not isinstance(plain.get(key, {}), dict):
            raise UsageError(f"{key} is a table, not {plain[key]!r}", path=file, remedy=f"write [{key}]")
    for text in overrides:
        _override(plain, text)
    return _recipe(plain, file)


def _override(plain: dict[str, Any], text: str) -> None:
    key, value = parse_override(text)
    table, dot, name = key.partition(".")
    if key in ("compress", "teacher"):
        plain[key] = value
    elif not dot:
        raise UsageError(f"'{text}' names no table", remedy="for example --set train.lr=1e-3")
    elif table == "compress":
        plain[table] = step_tables(plain.get(table, []))
        override_step(plain[table], name, value)
    elif table == "teacher":
        _override_teacher(plain.get(table, []), name, value)
    else:
        plain.setdefault(table, {})[name] = value


def _override_teacher(tables: Any, key: str, value: Any) -> None:
    number, _, name = key.partition(".")
    if not (number.isdecimal() and 1 <= int(number) <= len(tables) and name):
        rule = f"teacher.{key} names no setting of a teacher; there are {len(tables)}, counted from 1"
        raise UsageError(rule, remedy="for example --set teacher.1.epochs=20")
    tables[int(number) - 1][name] = value


def _recipe(plain: dict[str, Any], file: Path) -> Recipe:
    name = plain.pop("name", file.stem)
    unknown = sorted(set(plain) - set(_KNOWN))
    if unknown:
        raise UsageError(
            f"unknown table [{unknown[0]}]", path=file, remedy=f"a recipe has {', '.join(_KNOWN)}"
        )
    train = dict(plain.get("train", {}))
    preset = train.pop("preset", "")
    if preset and preset not in PRESETS:
        raise UsageError(f"train.preset = {preset!r}", path=file, remedy=f"one of {', '.join(PRESETS)}")
    train = {**PRESETS.get(preset, {}), **train}
    data = dict(plain.get("data", {}))
    steps = step_tables(plain.get("compress", []))
    teachers = _teacher_tables(plain.get("teacher", []), train)
    trainings = (train, *teachers, *(each["train"] for each in steps))
    for table, key in ((data, "path"), *((each, "weights") for each in trainings)):
        if str(table.get(key, "")).startswith("$"):
            table[key] = _variable(table[key][1:], file)
    tables: dict[str, Any] = {
        key: from_mapping(kind, plain.get(key, {}), key) for key, kind in _TABLES.items() if key != "data"
    }
    first, others = _trainings(train, teachers)
    return Recipe(
        name=name,
        data=from_mapping(DataSettings, data, "data"),
        train=first,
        teacher=others,
        compress=read_steps(steps, len(teachers)),
        **tables,
    )


def _teacher_tables(plain: Any, train: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the settings of the further dense trainings, those of [train] where they give none."""
    if not isinstance(plain, list) or not all(isinstance(each, dict) for each in plain):
        raise UsageError(f"teacher is a list of tables, not {plain!r}", remedy="write [[teacher]]")
    for each in plain:
        own = sorted({"model", "weights"} & set(each))
        if each.get("goes_on") and own:
            rule = f"a [[teacher]] that goes on from the network of [train] has no {own[0]} of its own"
            raise UsageError(rule, remedy=f"leave out goes_on, or {own[0]}")
    return [{**train, **({"weights": ""} if each.get("goes_on") else {}), **each} for each in plain]


def _trainings(
    train: Mapping[str, Any], teachers: Sequence[Mapping[str, Any]]
) -> tuple[TrainConfig, tuple[Teacher, ...]]:
    """Return what [train] and each [[teacher]] say; UsageError where two of them say the same."""
    first = from_mapping(TrainConfig, train, "train")
    others = tuple(map(_teacher, teachers))
    if len({Teacher(first), *others}) < 1 + len(others):
        rule = "a [[teacher]] has the settings of another, or of [train], and would be the same network"
        raise UsageError(rule, remedy="give it another seed")
    return first, others


def _teacher(table: Mapping[str, Any]) -> Teacher:
    training = {key: value for key, value in table.items() if key != "goes_on"}
    found = {
        "training": from_mapping(TrainConfig, training, "teacher"),
        "goes_on": table.get("goes_on", False),
    }
    return from_mapping(Teacher, found, "teacher")


def _variable(name: str, file: Path) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise UsageError(f"the recipe needs the environment variable {name}", path=file, remedy=f"set {name}")
    return value
