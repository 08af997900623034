"""The model file, `model.octlet`: read and written here, verified byte by byte, and nothing in it is run.

It is ONE zip archive of stored (uncompressed) entries, which any zip tool opens:

    manifest.json   what the other entries are, their sizes and SHA-256, and everything known of the model
    README.md       the model card
    golden.npz      a few inputs with the outputs that they must give (octlet.runtime.verify)
    model.onnx      the network of the engine "onnxruntime"
    model.tflite    the network of the engine "litert", where the file carries one

The manifest comes first, the rest by name, in a frame of exactly one form (`octlet.core.archive`).
"""

import dataclasses
import hashlib
import json
import re
import types
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, get_args, get_origin, get_type_hints

from octlet.core.archive import (
    COPY,
    MAX_BYTES,
    MAX_ENTRIES,
    MAX_MANIFEST,
    NAME,
    Entry,
    directory,
    headers,
    read_frame,
)
from octlet.core.errors import ModelFileError
from octlet.core.files import dump_json, replacing
from octlet.core.image import RECIPE
from octlet.core.labels import LABELS, NOTICE
from octlet.core.trust import Calibration, Layout, Prototypes, Thresholds, Trust

SCHEMA = 1
MANIFEST, CARD, GOLDEN = "manifest.json", "README.md", "golden.npz"
ONNX, TFLITE = "model.onnx", "model.tflite"
_BLOCK, _CACHED = 2**20, 2**16  # bytes in memory, and in the CPU's cache from one sum to the other
_SHA256 = re.compile(r"[0-9a-f]{64}")
_AGAIN = "export the model again with this version of Octlet"


@dataclass(frozen=True)
class FileRecord:
    """What an entry must be: the SHA-256 of its bytes as 64 hex digits, and their number."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class EngineFile:
    """The entry that an engine loads."""

    file: str


@dataclass(frozen=True)
class Preprocessing:
    """How a scan becomes the network's input: `octlet.core.image.RECIPE`, and the square's side in pixels."""

    size: int
    recipe: dict[str, Any] = field(default_factory=lambda: dict(RECIPE))


@dataclass(frozen=True)
class Tolerances:
    """How far another machine may be from the golden vectors.

    Attributes:
        levels: largest difference of a prepared pixel, in 8-bit levels: JPEG decoders round differently.
        share: largest share of prepared pixels that differ at all.
        logits, cam, embedding: largest absolute difference, as a share of the expected values' range.
    """

    levels: int = 1
    share: float = 1e-3
    logits: float = 1e-3
    cam: float = 1e-3
    embedding: float = 1e-3


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything that `manifest.json` says. A mapping to Any holds plain JSON, for people to read.

    Attributes:
        name: of the model.
        preprocessing: how a scan becomes the input, float32 (N, 1, S, S).
        engines: engine name -> its entry.
        files: every entry but the manifest; filled in by `write_bundle`.
        golden: tolerances of the self-check.
        network: `octlet.models.spec.NetSpec.as_dict()`.
        training: where the weights come from: data fingerprint, configuration, epoch, revision.
        metrics: figures on the validation fold; under `test` or `cross_validation` those on unseen scans,
            where `octlet calibrate` was given them.
        versions: of the software that wrote the file.
        licence: of the weights, and the attribution that they ask for.
        second_look: a scan to whose classes the network gives no probability of this, or more, is shown to it
            mirrored too, and the mean of both logits counts: over 0, to 1. None: one look at any scan.
        calibration, thresholds, prototypes: of `trust`: all of them, or none.
        layout: of `trust` too; files of before there was one have none.
    """

    schema: int = SCHEMA
    name: str
    notice: str = NOTICE
    labels: tuple[str, ...] = LABELS
    preprocessing: Preprocessing
    engines: dict[str, EngineFile]
    files: dict[str, FileRecord] = field(default_factory=dict)
    golden: Tolerances = Tolerances()
    network: dict[str, Any]
    training: dict[str, Any]
    metrics: dict[str, Any]
    versions: dict[str, str]
    licence: str
    second_look: float | None = None
    calibration: Calibration | None = None
    thresholds: Thresholds | None = None
    prototypes: Prototypes | None = None
    layout: Layout | None = None

    @property
    def trust(self) -> Trust | None:
        """How far to rely on it, where `octlet calibrate` was run; ModelFileError if out of range."""
        return Trust.of(self.calibration, self.thresholds, self.prototypes, self.layout)


@dataclass(frozen=True)
class Bundle:
    """An opened model file: every byte of it was verified once; `read` verifies again what it returns."""

    path: Path
    manifest: Manifest
    offsets: Mapping[str, int]

    def read(self, name: str) -> bytes:
        """Return an entry's bytes; ModelFileError if there is none or it is no longer what it was."""
        record = self.manifest.files.get(name)
        if record is None:
            raise ModelFileError(f"holds no {name}", path=self.path, remedy=_AGAIN)
        with _opened(self.path) as file:
            file.seek(self.offsets[name])
            data = file.read(record.bytes)
        if len(data) != record.bytes or _sha256(data) != record.sha256:
            raise ModelFileError(f"{name} has changed since it was opened", path=self.path, remedy=COPY)
        return data


def open_bundle(path: str | Path) -> Bundle:
    """Open a model file and verify all of it: frame, manifest, and the size and SHA-256 of every entry.

    Raises:
        ModelFileError: missing, not a model file, truncated or damaged, over `MAX_BYTES`, of another schema,
            labels or preprocessing recipe, with a malformed manifest, or with an entry too many or too few.
    """
    return open_network(path, None)[0]


def open_network(path: str | Path, reads: str | None) -> tuple[Bundle, bytes | None]:
    """Open a model file as `open_bundle` does and keep the entry that `manifest.engines[reads]` names.

    So the largest entry is read and verified once, not twice. None where the file has no such engine.
    """
    place = Path(path)
    if not place.is_file():
        rule = "not a file" if place.exists() else "no such model file"
        raise ModelFileError(rule, path=place, remedy="give the path of a model.octlet")
    try:
        with _opened(place) as file:
            return _verified(file, place, reads)
    except ModelFileError as error:  # the checks below know the rule, not the place
        raise ModelFileError(error.rule, path=place, remedy=error.remedy) from error


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        rule = f"cannot be read: {error.strerror}"
        raise ModelFileError(rule, path=path, remedy="check its rights") from error


def _verified(file: BinaryIO, path: Path, reads: str | None) -> tuple[Bundle, bytes | None]:
    entries = read_frame(file)
    offsets = {entry.name: offset for entry, offset in entries.items()}
    if list(offsets) != [MANIFEST, *sorted(offsets.keys() - {MANIFEST})]:
        raise ModelFileError("its entries are not a model file's", remedy="give a model.octlet")
    (first, begin), *others = entries.items()
    text, _ = _intact(file, first, begin, keep=True)
    manifest, network, found = parse_manifest(text), None, dict[str, FileRecord]()
    wanted = None if reads not in manifest.engines else manifest.engines[reads].file
    for entry, offset in others:
        keep = entry.name == wanted
        data, found[entry.name] = _intact(file, entry, offset, keep=keep)
        network = data if keep else network
    _check_files(manifest, found)
    return Bundle(path, manifest, types.MappingProxyType(offsets)), network


def _intact(file: BinaryIO, entry: Entry, offset: int, *, keep: bool) -> tuple[bytes, FileRecord]:
    """Return an entry's bytes, where they are to be kept, and what they are."""
    crc, sha256, left, data = 0, hashlib.sha256(), entry.bytes, b""
    file.seek(offset)
    while left > 0 and (data := file.read(left if keep else min(left, _BLOCK))):
        left -= len(data)
        view = memoryview(data)
        for begin in range(0, len(data), _CACHED):
            chunk = view[begin : begin + _CACHED]
            crc = zlib.crc32(chunk, crc)
            sha256.update(chunk)
    if crc != entry.crc:
        raise ModelFileError(f"{entry.name} is damaged", remedy=COPY)
    return data, FileRecord(sha256.hexdigest(), entry.bytes)


def _check_files(manifest: Manifest, found: Mapping[str, FileRecord]) -> None:
    if odd := sorted(manifest.files.keys() ^ found.keys()):
        raise ModelFileError(f"an entry is missing or not in the manifest: {', '.join(odd)}", remedy=COPY)
    for name, record in found.items():
        if manifest.files[name] != record:
            raise ModelFileError(f"{name} does not have the SHA-256 that the manifest states", remedy=COPY)


def write_bundle(path: str | Path, manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
    """Write a model file, whole or not at all; the same arguments give the same bytes.

    `files` maps names to bytes: at least the card, the golden vectors and every engine's entry. Returns the
    manifest with their records filled in. Raises ModelFileError for what `open_bundle` would refuse.
    """
    if sum(map(len, files.values())) > MAX_BYTES:
        raise ModelFileError(f"the model has over {MAX_BYTES} bytes", path=path, remedy="prune it")
    contents = dict(sorted(files.items()))
    records = {name: FileRecord(_sha256(data), len(data)) for name, data in contents.items()}
    complete = dataclasses.replace(manifest, files=records)
    plain = dataclasses.asdict(complete)
    told = {key: value for key, value in plain.items() if key not in _LATER or value is not None}
    contents = {MANIFEST: dump_json(told).encode(), **contents}
    parse_manifest(contents[MANIFEST])
    entries = [Entry(name, zlib.crc32(data), len(data)) for name, data in contents.items()]
    with replacing(path) as temporary, temporary.open("wb") as file:
        for header, data in zip(headers(entries), contents.values(), strict=True):
            file.write(header)
            file.write(data)
        file.write(directory(entries))
    return complete


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# The manifest -----------------------------------------------------------------------------------------


def parse_manifest(text: bytes) -> Manifest:
    """Read a manifest: every field of the declared type, none unknown, in the form `write_bundle` gives it.

    Raises ModelFileError: of another schema, label list or recipe, or malformed.
    """
    if len(text) > MAX_MANIFEST:
        raise ModelFileError(f"the manifest has over {MAX_MANIFEST} bytes", remedy=_AGAIN)
    try:
        plain = json.loads(text)
        canonical = dump_json(plain).encode()
    except (ValueError, RecursionError) as error:
        raise ModelFileError("the manifest is not JSON", remedy=COPY) from error
    if not isinstance(plain, dict) or type(plain.get("schema")) is not int:
        raise ModelFileError("the manifest states no schema", remedy="give a model.octlet")
    if plain["schema"] != SCHEMA:
        rule = f"has schema {plain['schema']}; this version of Octlet reads {SCHEMA}"
        raise ModelFileError(rule, remedy="update Octlet, or export the model again")
    if canonical != text:  # a key that stands twice, NaN, or an edit by hand
        raise ModelFileError("the manifest is not in the form that Octlet writes", remedy=_AGAIN)
    manifest: Manifest = _typed(plain, Manifest, "manifest")
    _check_manifest(manifest)
    return manifest


def _typed(value: Any, kind: Any, where: str) -> Any:
    """Return JSON `value` as the declared `kind`; ModelFileError where it is another."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _record(value, kind, where)
    if origin is types.UnionType:
        return None if value is None else _typed(value, inner[0], where)
    if origin is dict and isinstance(value, dict):
        return {key: _typed(each, inner[1], where) for key, each in value.items()}
    if origin is tuple and isinstance(value, list):
        return tuple(_typed(each, inner[0], where) for each in value)
    if kind is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    if type(value) is not kind:  # exact: a bool is no int
        raise ModelFileError(f"{where} is of the wrong type", remedy=_AGAIN)
    return value


def _record(value: dict[str, Any], kind: Any, where: str) -> Any:
    hints = get_type_hints(kind)
    if odd := (hints.keys() - value.keys() - _LATER) | (value.keys() - hints.keys()):
        names = ", ".join(sorted(odd))
        raise ModelFileError(f"{where} lacks or has unknown fields: {names[:200]!a}", remedy=_AGAIN)
    return kind(**{key: _typed(each, hints[key], f"{where}.{key}") for key, each in value.items()})


_LATER = {
    "layout",
    "second_look",
}  # fields that came after the first files: those, and files without such, lack them


def _check_manifest(manifest: Manifest) -> None:
    golden, files, twice = manifest.golden, manifest.files, manifest.second_look
    shares = (golden.share, golden.logits, golden.cam, golden.embedding)
    needed = {CARD, GOLDEN, *(engine.file for engine in manifest.engines.values())}
    one_line = 0 < len(manifest.name) <= 100 and manifest.name.isprintable()
    well_formed = all(NAME.fullmatch(name) and _SHA256.fullmatch(files[name].sha256) for name in files)
    rules = {
        f"its labels are not {', '.join(LABELS)}": manifest.labels == LABELS,
        "its preprocessing is not this version's": manifest.preprocessing.recipe == RECIPE,
        "its input size is not 32 to 1024 pixels": 32 <= manifest.preprocessing.size <= 1024,
        "its name is not one line of 1 to 100 characters": one_line,
        "a tolerance is out of range": 0 <= golden.levels <= 8 and all(0 < x <= 0.1 for x in shares),
        "its second look is not from over 0 to 1": twice is None or 0 < twice <= 1,
        "it names no engine": bool(manifest.engines),
        "a needed file is not listed": needed <= files.keys(),
        "a file's name or SHA-256 is malformed": well_formed,
        "it lists its manifest, or too many files": MANIFEST not in files and len(files) < MAX_ENTRIES,
    }
    for rule, kept in rules.items():
        if not kept:
            raise ModelFileError(rule, remedy=_AGAIN)
    _ = manifest.trust
