"""The user's choice of engine and threads, and the file that keeps it."""

import tomllib
from pathlib import Path

import pytest

from octlet.core.errors import UsageError
from octlet.runtime.choice import Choice, config_path, read_choice, write_choice


def test_where_the_choice_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OCTLET_CONFIG", "/a/b.toml")
    assert config_path() == Path("/a/b.toml")
    monkeypatch.delenv("OCTLET_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/x")
    assert config_path() == Path("/x/octlet/config.toml")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config_path() == tmp_path / ".config/octlet/config.toml"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[serve]\nport = 80",
        '# mine\n[runtime]  # fast\nengine = "litert"\n\n[serve]\nengine = "kept"\nthreads = 1\n',
        "[runtime]\nthreads=2\n",
        'title = "x"\n\n[a]\nb = [\n  [1],\n]\n',
    ],
)
def test_a_choice_changes_its_two_keys_and_nothing_else(tmp_path: Path, text: str) -> None:
    path = tmp_path / "new" / "config.toml"
    if text:
        path.parent.mkdir()
        path.write_text(text)
    write_choice(path, Choice("openvino", 3))
    assert read_choice(path) == Choice("openvino", 3)
    found = tomllib.loads(path.read_text())
    before = tomllib.loads(text)
    assert found == {**before, "runtime": {"engine": "openvino", "threads": 3}}
    untouched = [line for line in text.splitlines() if not line.startswith(("engine =", "threads"))]
    assert set(untouched) <= set(path.read_text().splitlines())


@pytest.mark.parametrize(
    "text",
    [
        'runtime = {engine = "litert"}\n',
        'runtime.engine = "litert"\n',
        'a = """\n[runtime]\n"""\n[runtime]\nthreads = 2\n',
    ],
)
def test_a_layout_that_is_not_safe_to_change_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match="can be changed safely") as caught:
        write_choice(path, Choice("openvino", 3))
    assert 'engine = "openvino"; threads = 3' in caught.value.remedy
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("text", "rule", "remedy"),
    [
        (b"[runtime\n", "is not TOML", "correct"),
        (b"\xff\xfe", "not UTF-8", "correct"),
        (b"runtime = 3\n", "not a table", r"\[runtime\]"),
        (b'[runtime]\nengin = "litert"\n', "unknown setting 'runtime.engin'", "did you mean 'engine'"),
        (b'[runtime]\nthreads = "all"\n', "not of type int", r"docs/devices\.md"),
        (b"[runtime]\nthreads = -1\n", "-1 threads", "0 for every CPU"),
        (b'[runtime]\nengine = "tensorrt"\n', "unknown engine 'tensorrt'", "one of onnxruntime"),
    ],
)
def test_a_broken_choice_is_named(tmp_path: Path, text: bytes, rule: str, remedy: str) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(text)
    with pytest.raises(UsageError, match=rule) as caught:
        read_choice(path)
    assert caught.value.path == str(path)
    assert remedy.replace("\\", "") in caught.value.remedy


def test_no_file_is_the_default(tmp_path: Path) -> None:
    assert read_choice(tmp_path / "none.toml") == read_choice(None) == Choice("onnxruntime", 0)
    with pytest.raises(UsageError, match="no home folder"):
        write_choice(None, Choice())
    with pytest.raises(UsageError, match="cannot be read") as caught:
        read_choice(tmp_path)
    assert caught.value.path == str(tmp_path)
