"""Replay a model file's golden vectors: does this machine compute what the exporting machine did?

A golden vector is an encoded image with the pixels that `prepare` made of it and the outputs that torch
computed at export. The replay decodes, prepares and computes it again. Pixels and network are judged apart:
the network is fed the stored pixels, so that a rounding JPEG decoder is not taken for a faulty engine; the
label is judged from end to end.
"""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octlet.core.bundle import GOLDEN, Bundle, open_bundle
from octlet.core.errors import GateError, InputError, ModelFileError
from octlet.core.image import Gray, Prepared, decode
from octlet.core.labels import LABELS, NOTICE
from octlet.runtime.engine import DEFAULT, ENGINES, OUTPUTS, Outputs, load_engine
from octlet.runtime.predictor import Predictor

MAX_GOLDEN = 64 * 2**20  # bytes, unpacked
_REMEDY = "export the model again"
_OF_NO_ENGINE = _HASH, _PIXELS = ": SHA-256", ": pixels"  # how the names of such checks end


@dataclass(frozen=True)
class GoldenVector:
    """One input and what must come of it.

    Attributes:
        name: of the image, telling its format; no slash.
        image: the encoded image's bytes.
        pixels: uint8 (S, S), prepared.
        outputs: of the network in float32 torch, N = 1.
    """

    name: str
    image: bytes
    pixels: Gray
    outputs: Outputs


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: what was measured, what it may be at most, and whether it is."""

    name: str
    measured: str
    limit: str
    passed: bool


@dataclass(frozen=True)
class Report:
    """Every check of one model file on this machine."""

    model: dict[str, Any]
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check was passed."""
        return all(check.passed for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        checks = [asdict(check) for check in self.checks]
        return {"notice": NOTICE, "model": self.model, "passed": self.passed, "checks": checks}


def verify(path: str | Path, *, engine: str | None = None, threads: int | None = None) -> Report:
    """Verify every hash of a model file and replay its golden vectors.

    Args:
        path: the model file.
        engine: which computes them; None for each that the file carries a network for and that is installed.
        threads: CPU threads; None for every CPU.

    Raises:
        ModelFileError: damaged (a hash that differs is no check that fails, but the end), without golden
            vectors, or not computable here.
    """
    bundle = open_bundle(path)
    carried = [name for name in bundle.manifest.engines if name in ENGINES and ENGINES[name].installed]
    names = [engine] if engine else carried or [DEFAULT]
    reports = [replay(Predictor(bundle, load_engine(bundle, name, threads))) for name in names]
    return reports[0] if len(reports) == 1 else _joined(reports)


def verified(predictor: Predictor) -> Predictor:
    """Return the predictor, its golden vectors replayed; GateError where it computes something else."""
    failed = [check.name for check in replay(predictor).checks if not check.passed]
    if failed:
        rule = f"computes something else here: {', '.join(failed)}"
        raise GateError(rule, path=predictor.bundle.path, remedy="do not use it here; see 'octlet verify'")
    return predictor


def _joined(reports: Sequence[Report]) -> Report:
    """Put the reports of several engines into one: what does not depend on the engine is told once."""
    engines = [report.model["engine"] for report in reports]
    checks = {}
    for engine, report in zip(engines, reports, strict=True):
        for check in report.checks:
            shared = check.name.endswith(_OF_NO_ENGINE)
            name = check.name if shared else f"{engine}, {check.name}"
            checks[name] = replace(check, name=name)
    return Report(reports[0].model | {"engine": ", ".join(engines)}, tuple(checks.values()))


def replay(predictor: Predictor) -> Report:
    """Replay the golden vectors of a model file that is open; raises ModelFileError as `verify` does."""
    bundle = predictor.bundle
    checks = [
        Check(f"{name}{_HASH}", record.sha256[:16], record.sha256[:16], True)  # opening has compared them
        for name, record in bundle.manifest.files.items()
    ]
    vectors = read_golden(bundle)
    for vector in vectors:
        checks += _replay_image(vector, predictor)
    # One by one, as a single scan is predicted: a batch may take another path through an engine.
    actual = [predictor.compute([_whole(vector.pixels)]) for vector in vectors]
    differences = compare([vector.outputs for vector in vectors], actual)
    for name, difference in differences.items():
        limit: float = getattr(bundle.manifest.golden, name)
        checks.append(
            Check(name, f"off by {difference:.1e} of the range", f"by {limit:.0e}", difference <= limit)
        )
    return Report(predictor.identity, tuple(checks))


def _whole(pixels: Gray) -> Prepared:
    return Prepared(pixels, (0, 0, pixels.shape[1], pixels.shape[0]))


def _replay_image(vector: GoldenVector, predictor: Predictor) -> list[Check]:
    """Decode, prepare and classify one golden image."""
    tolerances = predictor.bundle.manifest.golden
    expected = LABELS[int(vector.outputs.logits.argmax())]
    limit = f"by {tolerances.levels}, on {tolerances.share:.1%}"
    try:
        prepared = predictor.prepare(decode(vector.image, vector.name))
    except InputError as error:
        return [Check(f"{vector.name}{_PIXELS}", error.rule, limit, False)]
    level, share = pixel_difference(vector.pixels, prepared.pixels)
    close = level <= tolerances.levels and share <= tolerances.share
    label = LABELS[int(predictor.score([prepared]).logits.argmax())]
    return [
        Check(f"{vector.name}{_PIXELS}", f"off by {level}, on {share:.1%}", limit, close),
        Check(f"{vector.name}: label", label, expected, label == expected),
    ]


def pixel_difference(expected: Gray, actual: Gray) -> tuple[int, float]:
    """Return the largest difference of two uint8 arrays of one shape, and the share of pixels that differ."""
    difference = np.abs(expected.astype(np.int16) - actual)
    return int(difference.max()), float((difference > 0).mean())


def compare(expected: Sequence[Outputs], actual: Sequence[Outputs]) -> dict[str, float]:
    """Return, for each output, the largest absolute difference as a share of the expected values' range.

    Infinity where shapes differ, or where expected values without a range are not met exactly.
    """
    result = {}
    for name in OUTPUTS:
        pairs = [(getattr(e, name), getattr(a, name)) for e, a in zip(expected, actual, strict=True)]
        if any(e.shape != a.shape for e, a in pairs):
            result[name] = np.inf
            continue
        low, high = min(e.min() for e, _ in pairs), max(e.max() for e, _ in pairs)
        largest = max(float(np.abs(e - a).max()) for e, a in pairs)
        result[name] = largest / float(high - low) if high > low else (np.inf if largest else 0.0)
    return result


# The file of golden vectors ---------------------------------------------------------------------------


def dump_golden(vectors: Sequence[GoldenVector]) -> bytes:
    """Return the bytes of golden.npz: arrays NAME/image, NAME/pixels, NAME/logits, and so on."""
    arrays: dict[str, Any] = {}
    for vector in vectors:
        arrays[f"{vector.name}/image"] = np.frombuffer(vector.image, dtype=np.uint8)
        arrays[f"{vector.name}/pixels"] = vector.pixels
        arrays |= {f"{vector.name}/{output}": getattr(vector.outputs, output)[0] for output in OUTPUTS}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # nothing to pickle; NumPy 1 takes the flag for an array
    return buffer.getvalue()


def read_golden(bundle: Bundle) -> list[GoldenVector]:
    """Read a model file's golden vectors, at least one; ModelFileError if they are not what they must be."""
    data = bundle.read(GOLDEN)
    size = bundle.manifest.preprocessing.size
    try:
        arrays = _load_arrays(data)
        names = dict.fromkeys(key.rpartition("/")[0] for key in arrays)
        vectors = [_vector(name, arrays) for name in names]
    except (
        ValueError,
        KeyError,
        OSError,
        EOFError,
        MemoryError,
        zipfile.BadZipFile,
        ModelFileError,
    ) as error:
        raise ModelFileError(f"{GOLDEN} is malformed: {error}", path=bundle.path, remedy=_REMEDY) from error
    if not vectors or any(vector.pixels.shape != (size, size) for vector in vectors):
        rule = f"{GOLDEN} holds no vectors for inputs of {size} pixels"
        raise ModelFileError(rule, path=bundle.path, remedy=_REMEDY)
    return vectors


def _load_arrays(data: bytes) -> dict[str, NDArray[Any]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(info.file_size for info in archive.infolist()) > MAX_GOLDEN:
            raise ValueError(f"over {MAX_GOLDEN} bytes")
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return dict(arrays)


def _vector(name: str, arrays: dict[str, NDArray[Any]]) -> GoldenVector:
    image, pixels = arrays[f"{name}/image"], arrays[f"{name}/pixels"]
    if image.dtype != np.uint8 or pixels.dtype != np.uint8:
        raise ValueError("images and pixels are not uint8")
    logits, cam, embedding = (arrays[f"{name}/{output}"][None] for output in OUTPUTS)
    return GoldenVector(name, image.tobytes(), pixels, Outputs(logits, cam, embedding))
