"""The model file's format: one form, and no damaged, forged or foreign file passes."""

import hashlib
import io
import json
import zipfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octlet.core import bundle as module
from octlet.core.bundle import (
    EngineFile,
    Manifest,
    Preprocessing,
    open_bundle,
    open_network,
    parse_manifest,
    write_bundle,
)
from octlet.core.errors import ModelFileError
from octlet.core.files import dump_json
from octlet.core.image import RECIPE
from octlet.core.labels import LABELS, NOTICE

FILES = {"model.onnx": b"a network", "golden.npz": b"vectors", "README.md": b"# card\n"}
MANIFEST = Manifest(
    name="fixed",
    preprocessing=Preprocessing(64),
    engines={"onnxruntime": EngineFile("model.onnx")},
    network={"family": "v1.5"},
    training={"epoch": 1},
    metrics={"val_loss": 0.5},
    versions={"octlet": "0"},
    licence="none",
)

LATER = ("layout", "second_look")  # that a file may lack


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "good.octlet"
    write_bundle(path, MANIFEST, FILES)
    return path


def plain(good: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(zipfile.ZipFile(good).read("manifest.json"))
    return value


def forge(entries: dict[str, bytes], *, deflate: str = "") -> bytes:
    """Write the archive with the standard library: an independent writer of the same form."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in entries.items():
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, 0o100644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED if name == deflate else zipfile.ZIP_STORED
            archive.writestr(info, data)
    return buffer.getvalue()


def contents(good: Path) -> dict[str, bytes]:
    archive = zipfile.ZipFile(good)
    return {name: archive.read(name) for name in archive.namelist()}


def refused(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(ModelFileError) as caught:
        open_bundle(path)
    assert caught.value.path == str(path)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    return caught.value.rule


def test_the_format_is_fixed_to_the_byte(good: Path) -> None:
    # If this changes, files out in the world are no longer what Octlet writes: raise SCHEMA.
    assert (
        hashlib.sha256(good.read_bytes()).hexdigest()
        == "e2724fcd22b2760d8204b951d3969765af31dd21f12f1ae74179d32623dd0667"
    )


def test_round_trip(good: Path) -> None:
    bundle = open_bundle(good)
    assert {name: bundle.read(name) for name in bundle.manifest.files} == FILES
    assert replace(bundle.manifest, files={}) == MANIFEST
    assert bundle.manifest.labels == LABELS
    assert bundle.manifest.notice == NOTICE
    assert bundle.manifest.calibration is bundle.manifest.thresholds is bundle.manifest.prototypes is None


def test_any_zip_tool_reads_it_and_would_write_the_same_bytes(good: Path) -> None:
    archive = zipfile.ZipFile(good)
    assert archive.testzip() is None
    assert archive.namelist() == ["manifest.json", "README.md", "golden.npz", "model.onnx"]
    assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
    assert forge(contents(good)) == good.read_bytes()


def test_same_contents_same_bytes_whatever_the_order(good: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.octlet"
    write_bundle(again, MANIFEST, dict(reversed(FILES.items())))
    assert again.read_bytes() == good.read_bytes()


def test_reading_verifies_again(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.octlet"
    path.write_bytes(good.read_bytes())
    bundle = open_bundle(path)
    path.write_bytes(good.read_bytes().replace(b"a network", b"A network"))
    with pytest.raises(ModelFileError, match="changed since"):
        bundle.read("model.onnx")
    with pytest.raises(ModelFileError, match="holds no other"):
        bundle.read("other")
    path.unlink()
    with pytest.raises(ModelFileError, match="cannot be read"):
        bundle.read("model.onnx")


LARGE = bytes(range(251)) * 10_000  # of several blocks, none of which is like another


@pytest.mark.parametrize("reads", ["onnxruntime", None])
def test_an_entry_of_several_blocks(tmp_path: Path, reads: str | None) -> None:
    path = tmp_path / "large.octlet"
    write_bundle(path, MANIFEST, FILES | {"model.onnx": LARGE})
    whole = path.read_bytes()
    bundle, network = open_network(path, reads)
    assert network == (LARGE if reads else None)
    assert bundle.read("model.onnx") == LARGE
    begin = bundle.offsets["model.onnx"]
    for place in (0, 2**16 - 1, 2**16, 2**20, len(LARGE) - 1):
        damaged = bytearray(whole)
        damaged[begin + place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError, match=r"model.onnx is damaged"):
            open_network(path, reads)


def test_a_network_is_kept_only_for_its_own_engine(good: Path) -> None:
    assert open_network(good, "onnxruntime")[1] == b"a network"
    assert open_network(good, "litert")[1] is None


def test_what_is_no_model_file_says_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no such model file"):
        open_bundle(tmp_path / "absent.octlet")
    with pytest.raises(ModelFileError, match="not a file"):
        open_bundle(tmp_path)
    path = tmp_path / "m.octlet"
    assert refused(path, b"") == "the file is empty"
    assert refused(path, b"\x89PNG\r\n") == "not a model file"
    assert "cut short" in refused(path, b"PK\3\4")
    assert "entries" in refused(path, forge({"a.txt": b"another zip"}))
    with path.open("wb") as file:
        file.write(b"PK\3\4")
        file.truncate(module.MAX_BYTES + module.MAX_MANIFEST + 1)  # sparse
    with pytest.raises(ModelFileError, match="over the limit"):
        open_bundle(path)
    assert ModelFileError.exit_code == 4


@pytest.mark.parametrize("name", ["README.md", "golden.npz", "model.onnx"])
def test_a_missing_a_changed_and_an_unexpected_entry(good: Path, tmp_path: Path, name: str) -> None:
    path, entries = tmp_path / "m.octlet", contents(good)
    assert name in refused(path, forge({k: v for k, v in entries.items() if k != name}))
    assert f"{name} does not have the SHA-256" in refused(
        path, forge(entries | {name: b"X" * len(entries[name])})
    )
    assert "zzz" in refused(path, forge(entries | {"zzz": b""}))


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/b", "C:\\x", ".hidden", "é", "", "x" * 65])
def test_path_tricks(good: Path, tmp_path: Path, name: str) -> None:
    assert "damaged" in refused(tmp_path / "m.octlet", forge(contents(good) | {name: b""}))


def test_other_forms_of_zip(good: Path, tmp_path: Path) -> None:
    path, entries = tmp_path / "m.octlet", contents(good)
    assert "damaged" in refused(path, forge(entries, deflate="model.onnx"))
    assert "damaged" in refused(path, good.read_bytes() + b"tail")
    assert "not a model file" in refused(path, b"head" + good.read_bytes())
    assert "entries" in refused(path, forge(dict(sorted(entries.items()))))  # the manifest is not the first
    assert "damaged" in refused(path, forge({f"f{i}": b"" for i in range(17)}))
    path.write_bytes(good.read_bytes())
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("model.onnx", b"a second one")
    assert "damaged" in refused(path, path.read_bytes())


MUTATIONS: list[tuple[str, Any, str]] = [
    ("schema", 2, "schema 2"),
    ("schema", True, "no schema"),
    ("schema", "1", "no schema"),
    ("labels", ["CNV", "DME", "NORMAL", "DRUSEN"], "labels"),
    ("labels", "CNV", "wrong type"),
    ("labels", [1, 2, 3, 4], "wrong type"),
    ("preprocessing", {"size": 64, "recipe": RECIPE | {"resample": "nearest"}}, "preprocessing"),
    ("preprocessing", {"size": 64}, "lacks or has unknown"),
    ("preprocessing", {"size": 31, "recipe": RECIPE}, "32 to 1024"),
    ("preprocessing", {"size": 64.0, "recipe": RECIPE}, "wrong type"),
    ("preprocessing", {"size": True, "recipe": RECIPE}, "wrong type"),
    ("name", "", "one line"),
    ("name", "a\nb", "one line"),
    ("name", "\x1b[31m", "one line"),
    ("name", None, "wrong type"),
    ("engines", {}, "no engine"),
    ("engines", {"onnxruntime": {"file": "other.onnx"}}, "not listed"),
    ("engines", {"onnxruntime": "model.onnx"}, "wrong type"),
    ("golden", {"levels": 1, "share": 1e-3, "logits": 1e9, "cam": 1e-3, "embedding": 1e-3}, "tolerance"),
    ("golden", {"levels": 255, "share": 1e-3, "logits": 1e-3, "cam": 1e-3, "embedding": 1e-3}, "tolerance"),
    ("golden", {"levels": 1, "share": 10**400, "logits": 1e-3, "cam": 1e-3, "embedding": 1e-3}, "wrong type"),
    ("versions", {"octlet": 1}, "wrong type"),
    ("calibration", [], "wrong type"),
    ("second_look", "0.7", "wrong type"),
    ("second_look", 0, "second look"),
    ("second_look", 1.1, "second look"),
    ("extra", 1, "unknown fields"),
]


@pytest.mark.parametrize(("key", "value", "rule"), MUTATIONS)
def test_a_malformed_manifest(good: Path, tmp_path: Path, key: str, value: Any, rule: str) -> None:
    text = dump_json(plain(good) | {key: value}).encode()
    assert rule in refused(tmp_path / "m.octlet", forge(contents(good) | {"manifest.json": text}))


@pytest.mark.parametrize("key", [key for key in asdict(MANIFEST) if key not in ("schema", *LATER)])
def test_a_missing_field(good: Path, key: str) -> None:
    text = dump_json({k: v for k, v in plain(good).items() if k != key}).encode()
    with pytest.raises(ModelFileError, match=f"unknown fields: '{key}'"):
        parse_manifest(text)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"1",
        b"null",
        b"\xff\xfe",
        b'{"schema": NaN}',
        b"[" * 100_000,
        b"9" * 5000,
        b'"\\ud800"',
    ],
)
def test_a_manifest_that_is_no_json_object(text: bytes) -> None:
    with pytest.raises(ModelFileError):
        parse_manifest(text)


def test_a_manifest_in_another_form(good: Path) -> None:
    text = contents(good)["manifest.json"]
    with pytest.raises(ModelFileError, match="not in the form"):
        parse_manifest(text.replace(b'"name": "fixed"', b'"name": "x",\n  "name": "fixed"'))
    with pytest.raises(ModelFileError, match="over 1048576 bytes"):
        parse_manifest(text + b" " * 2**20)


@pytest.mark.parametrize(
    ("manifest", "files"),
    [
        (replace(MANIFEST, name=""), FILES),
        (MANIFEST, {"model.onnx": b""}),
        (MANIFEST, FILES | {"a/b": b""}),
        (MANIFEST, FILES | {"manifest.json": b""}),
        (MANIFEST, FILES | {f"f{i}": b"" for i in range(16)}),
    ],
)
def test_nothing_is_written_that_would_not_be_read(
    tmp_path: Path, manifest: Manifest, files: dict[str, bytes]
) -> None:
    with pytest.raises(ModelFileError):
        write_bundle(tmp_path / "m.octlet", manifest, files)
    assert list(tmp_path.iterdir()) == []


FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(data=st.data())
def test_no_truncated_or_flipped_file_passes(good: Path, tmp_path: Path, data: st.DataObject) -> None:
    whole = good.read_bytes()
    if data.draw(st.booleans(), label="truncate"):
        damaged = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        position, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
        damaged = whole[:position] + bytes([whole[position] ^ 1 << bit]) + whole[position + 1 :]
    refused(tmp_path / "m.octlet", damaged)


@FUZZ
@given(
    edits=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 40), st.binary(max_size=40)), min_size=1)
)
def test_no_spliced_file_crashes(good: Path, tmp_path: Path, edits: list[tuple[int, int, bytes]]) -> None:
    whole = data = good.read_bytes()
    for start, length, new in edits:
        data = data[:start] + new + data[start + length :]
    if data != whole:
        refused(tmp_path / "m.octlet", data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@FUZZ
@given(data=st.data(), value=JSON)
def test_no_manifest_crashes(good: Path, data: st.DataObject, value: Any) -> None:
    manifest = plain(good)
    key = data.draw(st.sampled_from(sorted(manifest)))
    inner = manifest[key]
    if isinstance(inner, dict) and inner and data.draw(st.booleans()):
        inner[data.draw(st.sampled_from(sorted(inner)))] = value
    else:
        manifest[key] = value
    try:
        read = parse_manifest(dump_json(manifest).encode())
    except (ModelFileError, UnicodeEncodeError):  # a lone surrogate cannot even be written
        return
    assert dict.fromkeys(LATER) | manifest == json.loads(json.dumps(asdict(read)))
