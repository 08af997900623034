"""Vendors' files and stacks: the gray values, eyes and subjects that come out, and what is refused."""

import contextlib
import hashlib
import hmac
import math
import struct
from pathlib import Path
from typing import Any

import clinical_files as write
import numpy as np
import pytest
from eyepy.io import HeE2eReader, HeVolReader
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from octlet.clinical import read_volumes
from octlet.clinical.e2e import reflectivity
from octlet.clinical.heidelberg import display
from octlet.core.errors import InputError
from octlet.core.image import decode

SALT = bytes(range(32))
FLAT = np.float32(3.4028235e38)
RAW = np.random.default_rng(3).uniform(0, 1, (3, *write.SIZE)).astype(np.float32) ** 4
CODES = (np.random.default_rng(4).integers(54, 63, (4, *write.SIZE)) << 10).astype(np.uint16)  # mantissa 0


def subject(patient: str) -> str:
    return hmac.new(SALT, patient.encode(), hashlib.sha256).hexdigest()[:16]


def rule_of(name: str, data: bytes, **named: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_volumes(name, data=data, **named)
    assert caught.value.path == name
    assert caught.value.remedy
    return caught.value.rule


def test_vol_is_what_eyepy_reads(tmp_path: Path) -> None:
    raw = RAW.copy()
    raw[1, :5] = FLAT
    file = tmp_path / "a.VOL"
    file.write_bytes(write.vol(raw, eye="OS", patient="P-17"))
    other = HeVolReader(file).parsed_file
    (volume,) = read_volumes(file, salt=SALT)
    assert (volume.file, volume.eye, volume.subject) == (str(file), "L", subject(other.patient_id))
    assert other.scan_position == "OS"
    for gray, scan in zip(volume.scans, other.bscans, strict=True):
        measured = scan.data < 1e38
        expected = np.where(measured, np.rint(255 * np.where(measured, scan.data, 0) ** 0.25), 255)
        np.testing.assert_array_equal(gray, expected)
    assert volume.name_of(2) == f"{file}#3"
    assert "P-17" not in repr(volume)


def test_display_of_values_at_the_ends() -> None:
    raw = np.array([[-1, 0, 1 / 256, 1, 1.5, 3e38, FLAT, np.inf, np.nan]], np.float32)
    assert display(raw)[0].tolist() == [0, 0, 64, 255, 255, 255, 255, 255, 255]


def test_volumes_of_one_visit_are_linked_and_others_not() -> None:
    def visit(**named: Any) -> str:
        return read_volumes("a.vol", data=write.vol(RAW, **named))[0].visit

    assert visit(patient="A") == visit(patient="A", eye="OS") != visit(patient="B")
    assert visit(patient="A") != visit(patient="A", number=4)


def test_e2e_is_what_eyepy_reads(tmp_path: Path) -> None:
    file = tmp_path / "a.e2e"
    left = CODES[:, ::-1].copy()
    left[0, 0, 0] = 0xFFFF  # not measured
    file.write_bytes(write.e2e({(5, 1, 2): CODES, (5, 1, 3): left}, {2: "R", 3: "L"}, patient="P-18"))
    with HeE2eReader(file) as reader:
        other = [(each.laterality(), each.get_bscans()) for each in reader.series]
    volumes = read_volumes(file, salt=SALT)
    assert [each.file for each in volumes] == [f"{file}@1", f"{file}@2"]
    assert [each.subject for each in volumes] == [subject("P-18")] * 2
    assert volumes[0].visit == volumes[1].visit != ""
    for volume, (side, values), eye in zip(volumes, other, "RL", strict=True):
        assert (volume.eye, chr(int(side))) == (eye, eye)
        expected = np.where(values > 1.99, 255, np.rint(255 * np.clip(values, 0, 1) ** 0.25))
        np.testing.assert_array_equal(np.stack(volume.scans), expected)


def test_a_larger_e2e_code_is_a_larger_number() -> None:
    values = reflectivity(np.arange(2**16, dtype=np.uint16))
    assert (np.diff(values) > 0).all()
    assert values[63 << 10] == 1
    assert values[(62 << 10) + 512] == 0.75


def test_circle_scans_are_not_of_the_macula() -> None:
    assert "circle" in rule_of("a.vol", write.vol(RAW, pattern=2))


@pytest.mark.parametrize("form", ["JPEG2000", "JPEG"])
def test_fda(form: str) -> None:
    images = write.grays(3)
    (volume,) = read_volumes("a.fda", data=write.fda(images, eye=1, patient="P-19", form=form), salt=SALT)
    assert (volume.eye, volume.subject) == ("L", subject("P-19"))
    assert np.abs(np.stack(volume.scans).astype(int) - images).max() <= (0 if form == "JPEG2000" else 6)


def cube(scans: int, depth: int, width: int) -> np.ndarray:
    """Smooth layers that differ from top to bottom, with speckle."""
    row = 100 + 80 * np.sin(np.arange(depth) / 40)
    noise = np.random.default_rng(6).normal(0, 10, (scans, depth, width))
    return np.clip(row[None, :, None] + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("width", [40, 96])
def test_img_in_either_order(width: int) -> None:
    scans = cube(3, 1024, width)
    name = f"P123_Macular Cube {width}x3_1-2-2020_3-4-5_OS_sn7_cube_z.img"
    by_column = scans.swapaxes(1, 2).tobytes()
    by_row = scans[:, ::-1].tobytes()
    for data in (by_column, by_row):
        (volume,) = read_volumes(name, data=data, salt=SALT)
        assert (volume.eye, volume.subject) == ("L", subject("P123"))
        np.testing.assert_array_equal(np.stack(volume.scans), scans)


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("cube.img", 100, "in its name alone"),
        ("cube 512x128.img", 512 * 128 * 1024 - 1, "bytes are not"),
        ("cube 512x128.img", 512 * 128 * 100, "bytes are not"),
        ("cube 512x0.img", 512, "it holds 0 images"),
    ],
)
def test_img_of_another_size_than_its_name(name: str, size: int, said: str) -> None:
    assert said in rule_of(name, bytes(size))


def test_tiff_stacks() -> None:
    images = write.grays(4)
    (volume,) = read_volumes("a.tif", data=write.tiff(list(images)), salt=SALT)
    np.testing.assert_array_equal(np.stack(volume.scans), images)
    assert (volume.eye, volume.subject, volume.visit) == (None, None, "")
    wide = images[:2].astype(np.uint16) * 257
    (volume,) = read_volumes("a.tiff", data=write.tiff(list(wide)))
    np.testing.assert_array_equal(np.stack(volume.scans), images[:2])


def test_a_tiff_of_one_page_is_an_image() -> None:
    data = write.tiff([write.grays(1)[0]])
    (volume,) = read_volumes("a.tif", data=data)
    np.testing.assert_array_equal(volume.scans[0], decode(data, "a.tif"))
    assert volume.picture
    assert "page 2 is" in rule_of("a.tif", write.tiff([write.grays(1)[0], write.grays(1, (50, 50))[0]]))


@pytest.mark.parametrize("name", ["a.vol", "a.e2e", "a.fda", "a.tif", "a.dcm"])
def test_a_file_that_is_another_one(name: str) -> None:
    assert rule_of(name, b"P" * 5000).startswith("not a")
    assert rule_of(name, b"") == "the file is empty"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name in ("none.vol", "folder.vol"):
        (tmp_path / "folder.vol").mkdir(exist_ok=True)
        with pytest.raises(InputError):
            read_volumes(tmp_path / name)
    huge = tmp_path / "huge.vol"
    with huge.open("wb") as file:
        file.truncate(2**29 + 1)
    with pytest.raises(InputError, match="over the limit"):
        read_volumes(huge)
    assert "not a clinical file" in rule_of("a.png", b"x")


@pytest.mark.parametrize(
    ("count", "height", "width"), [(0, 40, 24), (5000, 40, 24), (1, 8, 40), (2000, 2000, 2000)]
)
def test_no_memory_is_taken_for_what_a_header_promises(count: int, height: int, width: int) -> None:
    data = bytearray(write.vol(RAW))
    struct.pack_into("<3I", data, 12, width, count, height)
    assert "its images" in (rule := rule_of("a.vol", bytes(data))) or "it holds" in rule


@pytest.mark.parametrize("entries", [0, 3])
def test_directories_without_an_end(entries: int) -> None:
    data = bytearray(write.e2e({(5, 1, 2): CODES}, {2: "R"}))
    struct.pack_into("<I4xI", data, 88 + 36, entries, 88)  # before the first comes the first
    assert "no end" in rule_of("a.e2e", bytes(data))


SOUND = {
    "a.vol": write.vol(RAW),
    "a.e2e": write.e2e({(5, 1, 2): CODES, (5, 1, 3): CODES}, {2: "R", 3: "L"}),
    "a.fda": write.fda(write.grays(3)),
    "a 24x3.img": write.grays(3, (600, 24)).tobytes(),
    "a.tif": write.tiff(list(write.grays(3))),
}


@pytest.mark.parametrize("name", SOUND)
@given(data=st.data())
def test_damage_is_always_told(name: str, data: st.DataObject) -> None:
    content = bytearray(SOUND[name])
    header = st.integers(0, min(len(content), 2500) - 1)
    for place in data.draw(st.lists(header | st.integers(0, len(content) - 1), max_size=6)):
        content[place] = data.draw(st.integers(0, 255) | st.sampled_from([0, 127, 128, 255]))
    end = data.draw(st.integers(0, len(content)) | st.just(len(content)))
    with contextlib.suppress(InputError):
        for volume in read_volumes(name, data=bytes(content[:end]), salt=SALT):
            assert all(scan.dtype == np.uint8 and scan.ndim == 2 for scan in volume.scans)


def test_a_cut_file_is_never_half_read() -> None:
    for name, content in SOUND.items():
        rule_of(name, content[: len(content) // 2])


@pytest.mark.parametrize("share", [0.1, 0.7])  # beyond the double Pillow refuses, below it warns
@pytest.mark.parametrize(("name", "told"), [("a.tif", "too large"), ("a.fda", "far larger")])
def test_a_page_cannot_be_a_bomb(name: str, told: str, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(share * math.prod(write.SIZE)))
    assert told in rule_of(name, SOUND[name])
