"""What a recipe's [[compress]] tables say: the steps that make a trained network small, in their order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from octlet.compress.config import PruneConfig, QuantConfig
from octlet.compress.distil import DistilConfig
from octlet.core.errors import UsageError
from octlet.core.settings import check_ranges, from_mapping
from octlet.train.config import TrainConfig

Kind = Literal["prune", "distill", "quantize"]
DEFAULT = "default"

_CONFIGS: dict[Kind, type[PruneConfig | DistilConfig | QuantConfig]] = {
    "prune": PruneConfig,
    "distill": DistilConfig,
    "quantize": QuantConfig,
}


@dataclass(frozen=True)
class CompressStep:
    """One step of a chain.

    Attributes:
        number: its place, from 1.
        kind: the verb that does the same.
        config: the verb's own settings.
        training: settings of its training that differ from what the verb takes by itself.
        teachers: which dense networks a 'distill' step learns from: 0 is that of [train], 1 that of the first
            [[teacher]]; none means all.
    """

    number: int
    kind: Kind
    config: PruneConfig | DistilConfig | QuantConfig
    training: Mapping[str, Any]
    teachers: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Name of its stage and of its run folder: "1-prune"."""
        return f"{self.number}-{self.kind}"

    @property
    def is_fresh(self) -> bool:
        """Whether it begins a new network, a student, and does not go on from the step before."""
        return self.kind == "distill" and "model" in self.training

    @property
    def rewinds(self) -> bool:
        """Whether it needs the weights that the dense training began with."""
        return isinstance(self.config, PruneConfig) and self.config.rewind == "weights"


@dataclass(frozen=True)
class GateSettings:
    """What a step may lose before the chain stops.

    Attributes:
        max_loss: percentage points of balanced accuracy on the validation scans. A step fails where its loss
            is beyond this with 95 % confidence.
    """

    max_loss: float = 5.0

    def __post_init__(self) -> None:
        check_ranges(self, "gate", (("max_loss", 0.0, 100.0),))


def step_tables(plain: Any) -> list[dict[str, Any]]:
    """Return the tables of `compress`, each with its `train` table; "default" stands for the usual chain.

    Raises UsageError for anything but that word or a list of tables.
    """
    if plain == DEFAULT:
        return [{"step": kind, "train": {}} for kind in get_args(Kind)]
    tables = [{"train": {}, **table} for table in plain if isinstance(table, dict)] if _is_list(plain) else []
    if not _is_list(plain) or len(tables) < len(plain):
        remedy = f'write [[compress]] and step = "prune" below it, or compress = "{DEFAULT}"'
        raise UsageError(f"compress is a list of tables, not {plain!r}", remedy=remedy)
    for number, table in enumerate(tables, start=1):
        if not isinstance(table["train"], dict):
            raise UsageError(f"compress.{number}.train is a table", remedy="write [compress.train] below it")
    return tables


def _is_list(plain: Any) -> bool:
    return isinstance(plain, list)


def override_step(tables: Sequence[dict[str, Any]], key: str, value: Any) -> None:
    """Set "1.to_macs" or "1.train.epochs" in the tables; UsageError where there is no such step."""
    number, _, name = key.partition(".")
    if not (number.isdecimal() and 1 <= int(number) <= len(tables) and name):
        rule = f"compress.{key} names no setting of a step; there are {len(tables)}, counted from 1"
        raise UsageError(rule, remedy="for example --set compress.1.to_macs=0.25")
    table = tables[int(number) - 1]
    if name.startswith("train."):
        table, name = table["train"], name.removeprefix("train.")
    table[name] = value


def read_steps(tables: Sequence[Mapping[str, Any]], teachers: int = 0) -> tuple[CompressStep, ...]:
    """Return the steps that the tables (see `step_tables`) describe; `teachers` counts those of [[teacher]].

    Raises UsageError, naming the step, for a setting that is unknown or wrong, and for an order in which a
    step could not take what the one before it leaves.
    """
    steps: list[CompressStep] = []
    for number, table in enumerate(tables, start=1):
        try:
            step = _step(number, table)
            _check(step, steps, teachers)
        except UsageError as error:
            raise UsageError(f"compress.{number}: {error.rule}", remedy=error.remedy) from error
        steps.append(step)
    heard = {k for step in steps if step.kind == "distill" for k in step.teachers or range(teachers + 1)}
    in_vain = sorted({*range(1, teachers + 1)} - heard)
    if in_vain:
        rule = f"no step learns from [[teacher]] {in_vain[0]}"
        raise UsageError(rule, remedy="add a 'distill' step, or leave out [[teacher]]: --set teacher=[]")
    return tuple(steps)


def _step(number: int, table: Mapping[str, Any]) -> CompressStep:
    kind = table.get("step")
    if kind not in _CONFIGS:
        kinds = ", ".join(map(repr, _CONFIGS))
        raise UsageError("it names no step" if kind is None else f"step = {kind!r}", remedy=f"one of {kinds}")
    known = cast("Kind", kind)
    own = {key: value for key, value in table.items() if key not in ("step", "train")}
    taught = _numbers(own.pop("teachers")) if known == "distill" and "teachers" in own else ()
    config = from_mapping(_CONFIGS[known], own, known)
    from_mapping(TrainConfig, table["train"], "train")  # its step fills the rest from the run before
    return CompressStep(number, known, config, dict(table["train"]), taught)


def _numbers(plain: Any) -> tuple[int, ...]:
    if not _is_list(plain) or not plain or not all(type(each) is int for each in plain):
        rule = f"teachers = {plain!r} is no list of numbers"
        raise UsageError(rule, remedy="for example [1], for the first [[teacher]] alone")
    return tuple(plain)


def _check(step: CompressStep, before: Sequence[CompressStep], teachers: int) -> None:
    """Raise UsageError for what the verb would refuse, or what would be in vain, hours later."""
    if before and before[-1].kind == "quantize":
        remedy = "make 'quantize' the last step"
        raise UsageError(f"{step.kind} takes no quantised network", remedy=remedy)
    if step.is_fresh and before:
        remedy = "leave out train.model, or begin with this step"
        raise UsageError("a fresh student takes nothing from the steps before it", remedy=remedy)
    known = range(teachers + 1)
    named = step.teachers or tuple(known)
    if not {*named} <= {*known} or len({*named}) < len(named):
        rule = f"teachers = {list(named)} are not some of the {len(known)} dense networks, each once"
        raise UsageError(rule, remedy="0 is that of [train], 1 that of the first [[teacher]]")
    own = not (before or step.is_fresh or any(named))
    if step.kind == "distill" and own and not step.training.get("degrade"):
        rule = "the network of the dense training would be its own teacher, on the same scans"
        remedy = "name a fresh student in train.model, a step before it, a [[teacher]], or train.degrade"
        raise UsageError(rule, remedy=remedy)
    if step.rewinds and before:
        rule = "only the dense network has the weights that its training began with"
        raise UsageError(rule, remedy="prune first, or do not rewind to weights")
    if "model" in step.training and step.kind != "distill":
        raise UsageError("the network is that of the step before", remedy="leave out train.model")
    if "weights" in step.training and not (step.is_fresh or step.rewinds):
        raise UsageError("its network is trained already", remedy="leave out train.weights")
    if isinstance(step.config, QuantConfig) and step.config.prior_shift:
        rule = "a shift of its own would make it another model than the dense one"
        raise UsageError(rule, remedy="set export.prior_shift, which holds for both")
