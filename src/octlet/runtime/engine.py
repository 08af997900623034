"""The narrow seam between Octlet and whatever computes the network."""

import importlib
import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from octlet.core.bundle import Bundle, EngineFile
from octlet.core.errors import ModelFileError, UsageError
from octlet.core.labels import LABELS

DEFAULT = "onnxruntime"
INPUT, OUTPUTS = "image", ("logits", "cam", "embedding")  # of every network, whatever its file's format

Array = NDArray[np.float32]


@dataclass(frozen=True)
class EngineKind:
    """What is known of an engine before it is imported.

    Attributes:
        title: as its makers write it.
        package: what Python imports.
        distribution: what pip installs.
        reads: whose entry of a manifest it loads: its own, or that of an engine whose format it reads too.
        install: the command that brings it.
    """

    title: str
    package: str
    distribution: str
    reads: str
    install: str

    @property
    def installed(self) -> bool:
        """Whether Python finds the package; it is not imported, and might not work."""
        return importlib.util.find_spec(self.package) is not None

    @property
    def version(self) -> str | None:
        """The installed version; None where none is installed, or under another distribution's name."""
        from importlib.metadata import PackageNotFoundError, version  # slow; `octlet predict` never asks

        try:
            return version(self.distribution)
        except PackageNotFoundError:
            return None


ENGINES: Mapping[str, EngineKind] = MappingProxyType(
    {
        "onnxruntime": EngineKind(
            "ONNX Runtime", "onnxruntime", "onnxruntime", "onnxruntime", "pip install octlet"
        ),
        "litert": EngineKind(
            "LiteRT", "ai_edge_litert", "ai-edge-litert", "litert", 'pip install "octlet[litert]"'
        ),
        "openvino": EngineKind(
            "OpenVINO", "openvino", "openvino", "onnxruntime", 'pip install "octlet[openvino]"'
        ),
    }
)


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
    """Computes one network, one call at a time: an engine is not for two Python threads at once."""

    @property
    def name(self) -> str:
        """One of `ENGINES`."""

    def run(self, batch: Array) -> Outputs:
        """Compute normalised scans, float32 (N, 1, S, S) in -1..1, N at least 1.

        Raises ModelFileError where the network cannot be computed.
        """


def one_by_one(compute: Callable[[Array], tuple[Array, Array, Array]], batch: Array) -> Outputs:
    """Compute a batch in an engine whose network takes one scan, and join what it says of each.

    `compute` takes float32 (1, 1, S, S) and returns logits, cam and embedding, N = 1.
    """
    results = [compute(batch[i : i + 1]) for i in range(len(batch))]
    logits, cam, embedding = (np.concatenate(each) for each in zip(*results, strict=True))
    return Outputs(logits, cam, embedding)


def first_line(error: Exception) -> str:
    """Return what an engine's exception says first, cut to 200 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def readers(bundle: Bundle) -> tuple[str, ...]:
    """Return the engines that can read an entry of this model file, installed or not."""
    return tuple(name for name, kind in ENGINES.items() if kind.reads in bundle.manifest.engines)


def load_engine(bundle: Bundle, name: str = DEFAULT, threads: int | None = None) -> Engine:
    """Load a model file's network into an engine; `threads` None takes every CPU.

    Raises:
        UsageError: no such engine, one that is not installed, or `threads` under 1.
        ModelFileError: the file holds nothing for this engine, or a network that it cannot compute.
    """
    return loader(bundle, name, threads)()


def loader(
    bundle: Bundle, name: str = DEFAULT, threads: int | None = None, *, network: bytes | None = None
) -> Callable[[], Engine]:
    """Return what loads the network: the engine is imported and the entry is read, the rest is its own work.

    So the call may go on in another thread: an import there would take the interpreter from this one.
    `network` is the engine's entry, where it has been read. Raises what `load_engine` raises, but that the
    engine cannot compute the network: the call raises that.
    """
    entry = entry_for(bundle, name)
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads", remedy="give 1 or more")
    module = importlib.import_module(f"octlet.runtime.engines.{name}")
    importlib.import_module(ENGINES[name].package)  # after the module above, which sets its environment
    size = bundle.manifest.preprocessing.size
    content = bundle.read(entry.file) if network is None else network

    def load() -> Engine:
        try:
            engine: Engine = module.load(content, size, threads or os.cpu_count() or 1)
        except ModelFileError as error:
            raise ModelFileError(error.rule, path=bundle.path, remedy=error.remedy) from error
        return engine

    return load


def entry_for(bundle: Bundle, name: str) -> EngineFile:
    """Return the entry of a model file that an engine loads; imports nothing.

    Raises:
        UsageError: no such engine, or one that is not installed.
        ModelFileError: the file holds nothing for this engine.
    """
    kind = ENGINES.get(name)
    if kind is None:
        raise UsageError(f"unknown engine '{name}'", remedy=f"one of {', '.join(ENGINES)}")
    entry = bundle.manifest.engines.get(kind.reads)
    if entry is None:
        held = ", ".join(bundle.manifest.engines)
        remedy = f"take the engine {', '.join(readers(bundle))}" if readers(bundle) else ""
        raise ModelFileError(f"holds no network for {name}, only for {held}", path=bundle.path, remedy=remedy)
    if not kind.installed:
        raise UsageError(f"{kind.title} is not installed", remedy=kind.install)
    return entry
