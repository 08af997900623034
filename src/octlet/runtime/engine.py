"""The narrow seam between Octlet and whatever computes the network."""

import importlib
import os
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from octlet.core.bundle import Bundle
from octlet.core.errors import ModelFileError, UsageError
from octlet.core.labels import LABELS

ENGINES = ("onnxruntime",)

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Outputs:
    """What a network says of N scans, all float32.

    Attributes:
        logits: (N, 4), in label order.
        cam: (N, 4, h, w), the class activation maps; their means are the logits.
        embedding: (N, C), the pooled features.

    Raises ModelFileError where a network gives other types or shapes, or a number that is not finite.
    """

    logits: Array
    cam: Array
    embedding: Array

    def __post_init__(self) -> None:
        n, k = len(self.logits), len(LABELS)
        forms = {"logits": 2, "cam": 4, "embedding": 2}
        for name, ndim in forms.items():
            array = getattr(self, name)
            wrong_class_count = name != "embedding" and array.shape[1:2] != (k,)
            if array.dtype != np.float32 or array.ndim != ndim or len(array) != n or wrong_class_count:
                raise ModelFileError(f"the network's {name} are {array.dtype} {array.shape} for {n} scans")
            if not np.isfinite(array).all():
                raise ModelFileError(f"the network's {name} are not finite numbers")


class Engine(Protocol):
    """Computes one network."""

    @property
    def name(self) -> str:
        """One of `ENGINES`."""

    def run(self, batch: Array) -> Outputs:
        """Compute normalised scans, float32 (N, 1, S, S) in -1..1, N at least 1.

        Raises ModelFileError where the network cannot be computed.
        """


def load_engine(bundle: Bundle, name: str = "onnxruntime", threads: int | None = None) -> Engine:
    """Load a model file's network into an engine; `threads` None takes every CPU.

    Raises:
        UsageError: no such engine, or `threads` under 1.
        ModelFileError: the file holds nothing for this engine, or a network that it cannot compute.
    """
    if name not in ENGINES:
        raise UsageError(f"unknown engine '{name}'", remedy=f"one of {', '.join(ENGINES)}")
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads", remedy="give 1 or more")
    entry = bundle.manifest.engines.get(name)
    if entry is None:
        held = ", ".join(bundle.manifest.engines)
        raise ModelFileError(f"holds no network for {name}, only for {held}", path=bundle.path)
    module = importlib.import_module(f"octlet.runtime.engines.{name}")
    try:
        engine: Engine = module.load(
            bundle.read(entry.file), bundle.manifest.preprocessing.size, threads or os.cpu_count() or 1
        )
    except ModelFileError as error:
        raise ModelFileError(error.rule, path=bundle.path, remedy=error.remedy) from error
    return engine
