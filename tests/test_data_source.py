"""octlet.data.source: every layout, and every way that one can be wrong."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from octlet.core.errors import InputError
from octlet.core.labels import LABELS
from octlet.data.source import Item, is_unknown, label_of, open_source, read_pixels, read_table


def scan(path: Path, seed: int = 0, size: tuple[int, int] = (48, 32)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0]), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def npz(path: Path, **changes: object) -> Path:
    rng = np.random.default_rng(0)
    arrays: dict[str, object] = {}
    for split, n in (("train", 8), ("val", 4), ("test", 4)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(n) % 4).astype(np.uint8).reshape(-1, 1)
    arrays |= changes
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})  # type: ignore[arg-type]
    return path


def test_kermany_layout_gives_split_label_and_the_number_alone_as_patient(tmp_path: Path) -> None:
    scan(tmp_path / "train/CNV/CNV-103044-7.jpeg")
    scan(tmp_path / "test/DME/DME-103044-1.jpeg")
    scan(tmp_path / "val/NORMAL/NORMAL-9-12.jpeg")
    source = open_source(tmp_path)
    assert source.root == tmp_path
    assert list(source) == [
        Item("test/DME/DME-103044-1.jpeg", "DME", "103044", "test"),
        Item("train/CNV/CNV-103044-7.jpeg", "CNV", "103044", "train"),
        Item("val/NORMAL/NORMAL-9-12.jpeg", "NORMAL", "9", "val"),
    ]


def test_image_folder_makes_each_file_its_own_patient_and_counts_other_files(tmp_path: Path) -> None:
    scan(tmp_path / "cnv/a.png")
    scan(tmp_path / "Diabetic_Macular-Edema/deep/b.tif")
    scan(tmp_path / "cnv/.hidden.png")
    scan(tmp_path / "masks/a.png")
    (tmp_path / "cnv/notes.txt").write_text("x")
    (tmp_path / "README").write_text("x")
    (tmp_path / "octlet-check").mkdir()
    (tmp_path / "octlet-check/index.csv").write_text("x")
    source = open_source(tmp_path)
    found = {item.path: (item.label, item.patient, item.split) for item in source}
    assert found == {
        "cnv/a.png": ("CNV", "file:cnv/a.png", ""),
        "Diabetic_Macular-Edema/deep/b.tif": ("DME", "file:Diabetic_Macular-Edema/deep/b.tif", ""),
    }
    assert source.other_files == 5
    assert all(is_unknown(item.patient) for item in source)


@pytest.mark.parametrize("name", ["CNV-12.jpeg", "CNV-1-2-3.jpeg", "XYZ-1-2.jpeg", "CNV-a1-2.jpeg"])
def test_a_name_of_another_form_names_no_patient(tmp_path: Path, name: str) -> None:
    scan(tmp_path / "CNV" / name)
    assert [item.patient for item in open_source(tmp_path)] == [f"file:CNV/{name}"]


def test_a_linked_folder_cannot_make_the_walk_endless(tmp_path: Path) -> None:
    scan(tmp_path / "CNV/CNV-1-1.png")
    (tmp_path / "CNV/again").symlink_to(tmp_path)
    source = open_source(tmp_path)
    assert (len(source), source.other_files) == (1, 1)


def test_an_unknown_class_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    scan(tmp_path / "train/DRUSSEN/a.png")
    with pytest.raises(InputError, match=r"unknown class 'DRUSSEN'.*did you mean 'DRUSEN'") as caught:
        open_source(tmp_path)
    assert caught.value.path == str(tmp_path / "train/DRUSSEN")


@pytest.mark.parametrize("name", ["", "CNV"])
def test_a_folder_without_scans_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir(exist_ok=True)
    with pytest.raises(InputError, match="no scan found"):
        open_source(tmp_path)


def test_a_missing_path_and_a_strange_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        open_source(tmp_path / "none")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match="neither"):
        open_source(tmp_path / "a.txt")


def test_class_names_in_any_case_and_in_full() -> None:
    names = ["cnv", "Normal", "choroidal neovascularisation", "DIABETIC MACULAR EDEMA", "drusen "]
    assert [label_of(name) for name in names] == ["CNV", "NORMAL", "CNV", "DME", "DRUSEN"]
    assert label_of("amd") is None


def test_medmnist_items_and_pixels(tmp_path: Path) -> None:
    file = npz(tmp_path / "octmnist.npz")
    source = open_source(file)
    assert (source.root, len(source)) == (tmp_path, 16)
    assert [item.label for item in source if item.split == "val"] == list(LABELS)
    item = next(item for item in source if item.path == "octmnist.npz#train/5")
    assert item == Item("octmnist.npz#train/5", "DME", "file:octmnist.npz#train/5", "train")
    with np.load(file) as arrays:
        expected = arrays["train_images"][5]
    np.testing.assert_array_equal(read_pixels(tmp_path, item.path), expected)
    assert list(open_source(tmp_path)) == list(source)  # the only source in its folder


@pytest.mark.parametrize("channels", [1, 3])
def test_medmnist_arrays_with_channels_become_gray(tmp_path: Path, channels: int) -> None:
    gray = np.arange(28 * 28, dtype=np.uint8).reshape(1, 28, 28)
    images = np.repeat(gray[..., None], channels, axis=3)
    npz(tmp_path / "a.npz", val_images=images, val_labels=np.zeros((1, 1), np.int64))
    np.testing.assert_array_equal(read_pixels(tmp_path, "a.npz#val/0"), gray[0])


def test_a_changed_npz_is_read_again(tmp_path: Path) -> None:
    import os

    file = npz(tmp_path / "a.npz", val_images=np.zeros((4, 28, 28), np.uint8))
    assert read_pixels(tmp_path, "a.npz#val/0").max() == 0
    npz(file, val_images=np.full((4, 28, 28), 9, np.uint8))
    os.utime(file, (1, 1))
    assert read_pixels(tmp_path, "a.npz#val/0").max() == 9


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"val_labels": None}, "no array 'val_labels'"),
        ({"val_labels": np.zeros(3, np.uint8)}, "4 val_images but 3 val_labels"),
        ({"val_labels": np.full(4, 4, np.uint8)}, "other than 0 to 3"),
        ({"val_labels": np.zeros(4)}, "other than 0 to 3"),
        ({"val_images": np.zeros((4, 28, 28))}, "val_images is float64"),
        ({"val_images": np.zeros((4, 28, 28, 2), np.uint8)}, "not uint8"),
        ({"val_images": np.array([object()] * 4)}, "cannot be read"),
    ],
)
def test_a_wrong_npz_is_refused(tmp_path: Path, changes: dict[str, object], rule: str) -> None:
    with pytest.raises(InputError, match=rule):
        open_source(npz(tmp_path / "a.npz", **changes))


def test_what_is_no_npz_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(InputError, match=r"not a readable \.npz"):
        open_source(tmp_path / "a.npz")
    npz(tmp_path / "b.npz")
    with pytest.raises(InputError, match="no scan 99"):
        read_pixels(tmp_path, "b.npz#val/99")


def test_csv_source(tmp_path: Path) -> None:
    scan(tmp_path / "x/a.png")
    file = tmp_path / "scans.csv"
    file.write_text(
        "\ufeffpath,label,patient,split,eye\nx/a.png,cnv,p1,validation,L\nb.png,Drusen,,,R\n", "utf-8"
    )
    assert list(open_source(file)) == [
        Item("b.png", "DRUSEN", "file:b.png", ""),
        Item("x/a.png", "CNV", "p1", "val"),
    ]
    assert read_pixels(tmp_path, "x/a.png").shape == (32, 48)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("path,lable,patient\n", "'label' is missing.*did you mean 'lable'"),
        ("", "'path' is missing"),
        ("path,label,patient\na.png,CNV\n", "line 2 does not have 3 fields"),
        ("path,label,patient\na.png,CNV,1,2\n", "line 2 does not have 3 fields"),
        ("path,label,patient\na.png,CNW,1\n", "unknown class 'CNW'.*did you mean 'CNV'.*row 1"),
        ("path,label,patient,split\na.png,CNV,1,tset\n", "unknown split 'tset'"),
        (
            "path,label,patient\na.png,CNV,1\na.png,DME,2\n",
            "row 2: the path 'a.png' is empty or stands twice",
        ),
        ("path,label,patient,label\n", "stands twice in the header"),
        ('path,label,patient\n"a"b,CNV,1\n', "not CSV after line 1"),
        ("path,label,patient\n", "no scan found"),
    ],
)
def test_a_wrong_csv_is_refused(tmp_path: Path, text: str, rule: str) -> None:
    file = tmp_path / "scans.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=rule) as caught:
        open_source(file)
    assert caught.value.path == str(file)


def test_a_csv_of_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("path,label,patient\nä.png,CNV,1\n".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        open_source(tmp_path / "a.csv")


def test_unreadable_scans_name_themselves(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"a\.png: not a readable"):
        read_pixels(tmp_path, "a.png")
    with pytest.raises(InputError, match=r"b\.png: cannot be read"):
        read_pixels(tmp_path, "b.png")


@given(st.binary(max_size=200))
def test_a_table_of_any_bytes_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.csv"
    file.write_bytes(data)
    try:
        rows = read_table(file, ())
    except InputError:
        return
    assert all(isinstance(value, str) for row in rows for value in row.values())


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=3, max_size=3))
def test_a_table_quoted_in_full_comes_back(
    tmp_path_factory: pytest.TempPathFactory, cells: list[str]
) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([["a", "b", "c"], cells])
    file = tmp_path_factory.getbasetemp() / "quoted.csv"
    file.write_bytes(text.getvalue().encode())
    assert read_table(file, ("a",)) == [dict(zip("abc", cells, strict=True))]
