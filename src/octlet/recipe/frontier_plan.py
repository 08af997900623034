"""What a sweep over targets does, and to which runs: settings that are checked before hours of work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from octlet.compress.config import PruneConfig, QuantConfig
from octlet.compress.cost import cost_of
from octlet.compress.prune.run import pruning_training
from octlet.compress.quant.run import training_config
from octlet.core.errors import InputError, ModelFileError, UsageError
from octlet.core.settings import check_ranges, from_mapping
from octlet.data.split import SplitRecord, check_leaks, read_split
from octlet.evaluate.bootstrap import RESAMPLES
from octlet.evaluate.paired import MARGIN
from octlet.export.package import IMAGES
from octlet.models.spec import NetSpec
from octlet.train.checkpoint import read_record

# What the sweep itself sets: what to give instead.
_TAKEN = {
    "prune.to_macs": "--to-macs",
    "prune.what": "'octlet prune --unstructured'",
    "prune.sparsity": "'octlet prune --unstructured'",
    "prune.rewind": "'octlet prune --unstructured'",
    "quantize.method": "--int8",
    "quantize.prior_shift": "--prior-shift",
}


@dataclass(frozen=True)
class FrontierConfig:
    """Which points a sweep has, and how they are judged.

    Attributes:
        to_macs: shares of the dense network's multiply-accumulates, in any order.
        int8: how every point becomes integers: trained, calibrated, or not at all.
        prior_shift: of every point, see `octlet.train.prior.shift_prior`.
        margin: loss of balanced accuracy to rule out, a share.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        images: simulated scans on which an integer network must agree with its simulation.
        licence: of the weights, for the model files.
    """

    to_macs: tuple[float, ...] = (0.5, 0.25, 0.1, 0.05, 0.02)
    int8: Literal["qat", "ptq", "no"] = "qat"
    prior_shift: float = 0.0
    margin: float = MARGIN
    resamples: int = RESAMPLES
    seed: int = 0
    images: int = IMAGES
    licence: str = ""

    def __post_init__(self) -> None:
        ranges = (("prior_shift", 0.0, 2.0), ("margin", 1e-6, 0.999), ("resamples", 100, 1_000_000))
        check_ranges(self, "frontier", (*ranges, ("images", 200, 1_000_000)))
        wrong = [target for target in self.to_macs if not 0.001 <= target < 1]
        if wrong or not self.to_macs or len(set(self.to_macs)) < len(self.to_macs):
            rule = f"targets {', '.join(map(str, self.to_macs)) or 'none'}"
            raise UsageError(rule, remedy="give different shares of the MACs, from 0.001 to under 1")


@dataclass(frozen=True)
class Point:
    """One network of the sweep: its share of the MACs, None for the dense one, and its numbers."""

    target: float | None
    integers: bool

    @property
    def name(self) -> str:
        """What tables call it: "dense float", "0.25 int8"."""
        return f"{self.folder} {self.form}"

    @property
    def folder(self) -> str:
        """Name of the folder of its network."""
        return "dense" if self.target is None else str(self.target)

    @property
    def form(self) -> str:
        """What its numbers are."""
        return "int8" if self.integers else "float"


@dataclass(frozen=True)
class Plan:
    """A sweep: its points' settings, and those of pruning, of rounding and of the two kinds of training."""

    config: FrontierConfig
    prune: PruneConfig
    quantize: QuantConfig
    train: Mapping[str, Any]
    qat: Mapping[str, Any]

    @property
    def targets(self) -> list[float]:
        """The shares of the MACs, the largest first: every network is pruned on from the one before."""
        return sorted(self.config.to_macs, reverse=True)

    @property
    def points(self) -> list[Point]:
        """The points in the order of the table; the first is the reference."""
        integers = self.config.int8 != "no"
        dense = [Point(None, False)] + [Point(None, True)] * integers
        return dense + [Point(target, integers) for target in self.targets]


def plan_of(own: Mapping[str, Any], tables: Mapping[str, Mapping[str, Any]]) -> Plan:
    """Return a plan from plain values; `tables` has the keys prune, train, quantize and qat.

    Raises UsageError for an unknown setting, one out of range, and one that the sweep itself sets.
    """
    for name, table in tables.items():
        for key in table:
            if remedy := _TAKEN.get(f"{name}.{key}"):
                raise UsageError(f"'{name}.{key}' is not set for one target", remedy=f"use {remedy}")
    config = from_mapping(FrontierConfig, own, "frontier")
    unused = {"no": ("quantize", "qat"), "ptq": ("qat",), "qat": ()}[config.int8]
    for name in unused:
        if tables[name]:
            raise UsageError(f"'{name}.{next(iter(tables[name]))}' means nothing with int8 = '{config.int8}'")
    rounding = {"prior_shift": config.prior_shift} | ({} if config.int8 == "no" else {"method": config.int8})
    return Plan(
        config,
        from_mapping(PruneConfig, tables["prune"], "prune"),
        from_mapping(QuantConfig, {**tables["quantize"], **rounding}, "quantize"),
        tables["train"],
        tables["qat"],
    )


# The runs ---------------------------------------------------------------------------------------------


def check_runs(runs: Sequence[Path], plan: Plan) -> None:
    """Raise what is wrong with the runs, all of it findable without computing.

    Raises:
        InputError: no run; test scans or patients that two runs share; a split that leaks.
        ModelFileError: no checkpoint, or a quantised one.
        UsageError: runs of different networks; settings that do not fit them.
    """
    if not runs:
        raise UsageError("a frontier needs a run", remedy="give the folder that 'octlet train' wrote")
    records = [read_record(run) for run in runs]
    for run, record in zip(runs, records, strict=True):
        if "quantization" in record:
            remedy = "give the run that it was quantised from"
            raise ModelFileError("a quantised run; this takes a float one", path=run, remedy=remedy)
        _check_training(run, record, plan)
        if _made_as(record) != _made_as(records[0]):
            rule = f"its network was not made as {runs[0]}'s"
            raise UsageError(rule, path=run, remedy="give the runs of one cross-validation")
    splits = [read_split(run / "split.csv") for run in runs]
    for split in splits:
        check_leaks(split)
    for (one, ours), (other, theirs) in combinations(zip(runs, splits, strict=True), 2):
        _check_apart(one, ours, other, theirs)


def _made_as(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what the networks of one cross-validation have in common: pruning leaves each other channels."""
    pruning = record.get("pruning")
    if pruning is None:
        return record["size"], record["spec"]
    return record["size"], pruning["first"]["spec"], *(pruning[key] for key in ("what", "to_macs", "units"))


def _check_training(run: Path, record: Mapping[str, Any], plan: Plan) -> None:
    for table, settings in (
        ("train", pruning_training(record, plan.train, plan.prune)),
        ("qat", training_config(record, plan.qat)),
    ):
        if settings.size != record.get("size"):
            rule = f"{table}.size = {settings.size}, and the run's input has {record.get('size')} pixels"
            raise UsageError(rule, path=run, remedy="a share of MACs compares networks of one input")


def _check_apart(one: Path, ours: Sequence[SplitRecord], other: Path, theirs: Sequence[SplitRecord]) -> None:
    for column, what in (("patient", "patient"), ("sha256", "picture")):
        tested = {getattr(row, column) for row in ours if row.split == "test"}
        twice = sorted(tested & {getattr(row, column) for row in theirs if row.split == "test"})
        if twice:
            rule = f"{what} {twice[0]} is in the test sets of {one} and {other}, one of {len(twice)}"
            raise InputError(
                rule, remedy="give runs whose test sets share no patient, as the folds of a split"
            )


def macs_of(run: Path) -> int:
    """Return the multiply-accumulates of a run's network for one scan of its own size."""
    record = read_record(run)
    return cost_of(NetSpec.from_dict(record["spec"]), record["size"]).macs
