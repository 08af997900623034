import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from octlet.core.errors import InputError
from octlet.evaluate.predictions import COLUMNS, Predictions, merge, read_predictions, write_predictions

HEADER = ",".join(COLUMNS)


def predictions(*paths):
    n = len(paths)
    p = np.tile([0.7, 0.1, 0.1, 0.1], (n, 1))
    return Predictions(tuple(paths), np.zeros(n, np.int64), tuple("p" for _ in paths), p)


def refused(rule, read, *args):
    with pytest.raises(InputError, match=rule) as told:
        read(*args)
    return told.value


names = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), min_size=1, max_size=12)


@given(st.lists(names, min_size=1, max_size=6, unique=True), st.data())
def test_what_is_written_reads_back_bit_equal(tmp_path_factory, paths, data):
    n = len(paths)
    patients = data.draw(st.lists(names, min_size=n, max_size=n))
    labels = data.draw(arrays.arrays(np.int64, n, elements=st.integers(0, 3)))
    raw = data.draw(arrays.arrays(np.float64, (n, 4), elements=st.floats(1e-9, 1)))
    written = Predictions(tuple(paths), labels, tuple(patients), raw / raw.sum(axis=1, keepdims=True))
    file = tmp_path_factory.mktemp("round") / "predictions.csv"
    write_predictions(file, written)
    read = read_predictions(file)
    assert (read.paths, read.patients) == (written.paths, written.patients)
    assert read.labels.tolist() == written.labels.tolist()
    assert read.probabilities.tobytes() == written.probabilities.tobytes()


@given(st.binary(max_size=200))
def test_bytes_that_are_no_predictions_are_refused_by_the_files_name(tmp_path_factory, data):
    file = tmp_path_factory.mktemp("fuzz") / "predictions.csv"
    file.write_bytes(HEADER.encode() + b"\n" + data)
    assert str(file) in str(refused(".", read_predictions, file))


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ("a.png,CNV,1,0.9,0.05,0.05,0.01", "sum to 1"),
        ("a.png,CNV,1,1.1,-0.1,0,0", "between 0 and 1"),
        ("a.png,CNV,1,nan,0.5,0.25,0.25", "between 0 and 1"),
        ("a.png,cnv,1,1,0,0,0", "row 1 .a.png. needs one of the labels"),
        ("a.png,CNV,1,1,0,0,x", "row 1"),
        ("a.png,CNV,1,1,0,0", "row 1 has 6 fields"),
        ("a.png,CNV,,1,0,0,0", "one line of text"),
        (",CNV,1,1,0,0,0", "one line of text"),
        ("a.png,CNV,1,1,0,0,0\na.png,CNV,1,1,0,0,0", "a.png stands here 2 times"),
        ("", "no scan"),
    ],
)
def test_a_bad_row_is_refused_by_name(tmp_path, row, rule):
    file = tmp_path / "predictions.csv"
    file.write_text(f"{HEADER}\n{row}\n" if row else f"{HEADER}\n")
    assert refused(rule, read_predictions, file).path == str(file)


def test_rounded_probabilities_are_accepted(tmp_path):
    file = tmp_path / "predictions.csv"
    file.write_text(f"{HEADER}\na.png,DME,1,0.33333,0.33333,0.33333,0\n")
    assert read_predictions(file).labels.tolist() == [1]


def test_a_missing_file_an_empty_file_and_another_table_are_refused(tmp_path):
    refused("No such file", read_predictions, tmp_path / "none.csv")
    (tmp_path / "empty.csv").write_text("")
    refused("not a CSV", read_predictions, tmp_path / "empty.csv")
    (tmp_path / "other.csv").write_text("path,label\na,CNV\n")
    refused("has the columns path,label,patient", read_predictions, tmp_path / "other.csv")


def test_columns_of_unequal_length_are_refused():
    refused("2 paths need", Predictions, ("a", "b"), np.zeros(1, np.int64), ("1", "2"), np.full((2, 4), 0.25))


def test_a_label_out_of_range_is_refused():
    refused("0 to 3", Predictions, ("a",), np.array([4]), ("1",), np.full((1, 4), 0.25))


def test_a_name_that_is_no_utf8_is_refused():
    refused("one line of text", predictions, "scan-\udcff.png")


def test_a_tie_goes_to_the_first_label():
    tied = Predictions(("a",), np.array([3]), ("1",), np.array([[0.1, 0.4, 0.1, 0.4]]))
    assert tied.predicted.tolist() == [1]


def test_merge_pools_folds_and_refuses_a_scan_that_stands_twice():
    pooled = merge([predictions("b", "a"), predictions("c")])
    assert pooled.paths == ("b", "a", "c")
    assert pooled.probabilities.shape == (3, 4)
    refused("a stands here 2 times", merge, [predictions("b", "a"), predictions("a")])
    refused("no predictions", merge, [])
