import hashlib
import os
import stat

import pytest

from octlet.core.errors import GateError, InputError, ModelFileError, OctletError, UsageError
from octlet.core.files import csv_of, dump_json, replacing, sha256_of, write_text, writing_to


def test_a_fault_while_writing_leaves_the_old_file_and_no_scraps(tmp_path):
    file = tmp_path / "deep" / "result.txt"
    write_text(file, "old")

    def interrupted() -> None:
        with replacing(file) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert file.read_text() == "old"
    assert os.listdir(file.parent) == ["result.txt"]  # noqa: PTH208


def test_a_written_file_has_the_rights_of_any_other(tmp_path):
    write_text(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"retina")
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"retina").hexdigest()


def test_json_refuses_what_json_has_no_word_for():
    with pytest.raises(ValueError, match="JSON"):
        dump_json({"accuracy": float("nan")})


def test_every_error_has_its_own_exit_code_and_one_shape():
    codes = [kind.exit_code for kind in (OctletError, UsageError, InputError, ModelFileError, GateError)]
    assert codes == [1, 2, 3, 4, 5]
    error = InputError("the file is empty", path="a/b.png", remedy="export it again")
    assert str(error) == "a/b.png: the file is empty (export it again)"
    assert error.as_dict() == {
        "code": "bad-input",
        "file": "a/b.png",
        "message": "the file is empty",
        "remedy": "export it again",
    }


def test_csv_of_rows_and_of_columns_alone():
    rows = [{"a": 1, "b": 'x,"y"'}, {"a": None}]
    assert csv_of(rows) == 'a,b\n1,"x,""y"""\n,\n'
    assert csv_of([], ["a", "b"]) == "a,b\n"
    with pytest.raises(ValueError, match="'c'"):
        csv_of([{"a": 1}, {"c": 2}])


def test_what_cannot_be_written_is_named_with_a_remedy(tmp_path):
    (tmp_path / "file").touch()
    told = "cannot be written to: File exists"
    there = tmp_path / "file" / "x"
    with pytest.raises(UsageError, match=told) as caught, writing_to(there, "give another DIR"):
        write_text(there, "text")
    assert (caught.value.path, caught.value.remedy) == (str(there), "give another DIR")
