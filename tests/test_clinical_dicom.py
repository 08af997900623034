"""DICOM: gray values, compressed or not; which objects are taken; what never leaves the reader."""

import contextlib
import hashlib
import hmac
import io
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import clinical_files as write
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom.pixels.processing import apply_voi_lut
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSLossless,
    RLELossless,
)

from octlet.clinical import read_volumes
from octlet.clinical.dicom_pixels import coded_size
from octlet.core.errors import InputError

SALT = b"0123456789abcdef"
IMAGES = write.grays(3)
SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"
SHIPPED_FILES = sorted(file for file in SHIPPED.rglob("*.dcm"))


def read(made: pydicom.Dataset, **named: Any) -> list[Any]:
    return read_volumes("a.dcm", data=write.dicom(made), **named)


def scans_of(made: pydicom.Dataset, **named: Any) -> np.ndarray:
    (volume,) = read(made, **named)
    return np.stack(volume.scans)


def rule_of(made: pydicom.Dataset | bytes, **named: Any) -> str:
    data = made if isinstance(made, bytes) else write.dicom(made)
    with pytest.raises(InputError) as caught:
        read_volumes("a.dcm", data=data, **named)
    assert caught.value.path == "a.dcm"
    assert caught.value.remedy
    return caught.value.rule


def jpegs(images: np.ndarray, **options: Any) -> list[bytes]:
    buffers = [io.BytesIO() for _ in images]
    for image, buffer in zip(images, buffers, strict=True):
        Image.fromarray(image).save(buffer, "JPEG", quality=100, **options)
    return [buffer.getvalue() for buffer in buffers]


def test_frames_of_gray() -> None:
    np.testing.assert_array_equal(scans_of(write.dataset(IMAGES)), IMAGES)
    np.testing.assert_array_equal(scans_of(write.dataset(IMAGES[:1], NumberOfFrames=None)), IMAGES[:1])
    inverted = write.dataset(IMAGES, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(scans_of(inverted), 255 - IMAGES)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_lossless_compression(syntax: str) -> None:
    made = write.dataset(IMAGES)
    made.compress(syntax)
    np.testing.assert_array_equal(scans_of(made), IMAGES)
    wide = write.dataset(IMAGES.astype(np.uint16) * 257)
    wide.compress(syntax)
    np.testing.assert_array_equal(scans_of(wide), IMAGES)


def test_jpeg_and_deflated() -> None:
    made = write.coded(write.dataset(IMAGES), jpegs(IMAGES), JPEGBaseline8Bit)
    assert np.abs(scans_of(made).astype(int) - IMAGES).max() <= 6
    deflated = write.dataset(IMAGES)
    deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    np.testing.assert_array_equal(scans_of(deflated), IMAGES)


def test_lossless_jpeg_that_pydicom_ships() -> None:
    """Process 14 of 8 bits, which pydicom leaves to GPL software; Pillow decodes it."""
    named = {"any_modality": True}
    coded = read_volumes(SHIPPED / "SC_rgb_jpeg_gdcm.dcm", **named)[0].scans[0]
    plain = read_volumes(SHIPPED / "SC_rgb_rle.dcm", **named)[0].scans[0]
    np.testing.assert_array_equal(coded, plain)


def test_what_nothing_decodes_is_told_with_a_remedy() -> None:
    made = write.coded(write.dataset(IMAGES.astype(np.uint16)), jpegs(IMAGES), "1.2.840.10008.1.2.4.70")
    assert "nothing installed decodes its compression (JPEG Lossless" in rule_of(made)
    made = write.coded(write.dataset(IMAGES), [b"\xff\xd8" + bytes(100)] * 3, JPEGExtended12Bit)
    assert "a coded frame is not 40x48" in rule_of(made)
    unknown = write.coded(write.dataset(IMAGES), jpegs(IMAGES), "1.2.840.10008.1.2.4.102")
    assert "nothing installed" in rule_of(unknown)


@pytest.mark.parametrize("kind", ["baseline", "j2k", "jls"])
def test_a_coded_frame_of_another_size_is_not_decoded(kind: str) -> None:
    other = write.dataset(write.grays(1, (200, 300)))
    syntax = {"baseline": JPEGBaseline8Bit, "j2k": JPEG2000Lossless, "jls": JPEGLSLossless}[kind]
    if kind == "baseline":
        frame = jpegs(write.grays(1, (200, 300)))[0]
    else:
        other.compress(syntax)
        frame = next(pydicom.encaps.generate_frames(other.PixelData, number_of_frames=1))
    assert coded_size(frame) == (300, 200)
    made = write.coded(write.dataset(IMAGES[:1]), [frame], syntax)
    assert "a coded frame is not 40x48" in rule_of(made)
    assert coded_size(b"") is coded_size(b"\xff\xd8\xff\xd9") is None


def test_colour_becomes_luma() -> None:
    colour = np.random.default_rng(1).integers(0, 256, (2, *write.SIZE, 3)).astype(np.uint8)
    expected = np.rint(colour @ [0.299, 0.587, 0.114])
    assert np.abs(scans_of(write.dataset(colour)) - expected).max() <= 1
    wide = scans_of(write.dataset(colour.astype(np.uint16) * 257))
    np.testing.assert_array_equal(wide, scans_of(write.dataset(colour)))


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("centre", "width"), [(2048, 4096), (900, 500), (100.5, 2), (100, 1)])
def test_windows_are_those_of_pydicom(function: str, centre: float, width: float) -> None:
    stored = np.random.default_rng(2).integers(0, 4096, (1, *write.SIZE)).astype(np.uint16)
    made = write.dataset(stored, BitsStored=12, HighBit=11)
    made.WindowCenter, made.WindowWidth, made.VOILUTFunction = [centre, 7], [width, 9], function
    expected = np.rint(apply_voi_lut(stored, made, index=0) * 255 / 4095)
    np.testing.assert_allclose(scans_of(made), expected, atol=1)


def test_the_range_of_stored_bits_without_a_window() -> None:
    stored = np.array([[0, 1024, 2048, 4095] * 10] * 48, np.uint16)[None]
    assert scans_of(write.dataset(stored, BitsStored=12, HighBit=11))[0, 0, :4].tolist() == [0, 64, 128, 255]
    signed = stored.astype(np.int16) - 2048
    made = write.dataset(signed, BitsStored=12, HighBit=11, RescaleSlope=-1, RescaleIntercept=5)
    assert scans_of(made)[0, 0, :4].tolist() == [255, 191, 127, 0]


def test_the_window_of_each_frame() -> None:
    made = write.dataset(IMAGES)
    windows = [
        write.item(FrameVOILUTSequence=[write.item(WindowCenter=c, WindowWidth=w)])
        for c, w in ((128, 256), (64, 128), (128, 256))
    ]
    made.PerFrameFunctionalGroupsSequence = windows
    found = scans_of(made)
    np.testing.assert_array_equal(found[[0, 2]], IMAGES[[0, 2]])
    np.testing.assert_allclose(found[1], np.clip(IMAGES[1].astype(float) * 255 / 127, 0, 255), atol=1)


@pytest.mark.parametrize(
    ("elements", "eye"),
    [
        ({"ImageLaterality": "R"}, "R"),
        ({"Laterality": "L"}, "L"),
        ({"ImageLaterality": "L", "Laterality": "R"}, "L"),
        ({"ImageLaterality": "B"}, None),
        ({}, None),
        (
            {
                "SharedFunctionalGroupsSequence": [
                    write.item(FrameAnatomySequence=[write.item(FrameLaterality="L")])
                ]
            },
            "L",
        ),
    ],
)
def test_eyes(elements: dict[str, Any], eye: str | None) -> None:
    (volume,) = read(write.dataset(IMAGES, **elements))
    assert volume.eye == eye


def test_frames_of_both_eyes_are_two_volumes() -> None:
    sides = [write.item(FrameAnatomySequence=[write.item(FrameLaterality=side)]) for side in "RLR"]
    first, second = read(write.dataset(IMAGES, PerFrameFunctionalGroupsSequence=sides))
    assert (first.file, first.eye, second.file, second.eye) == ("a.dcm@1", "R", "a.dcm@2", "L")
    np.testing.assert_array_equal(np.stack(first.scans), IMAGES[[0, 2]])
    np.testing.assert_array_equal(np.stack(second.scans), IMAGES[[1]])


def test_subjects_visits_and_series() -> None:
    def volume(**elements: Any) -> Any:
        return read(write.dataset(IMAGES, **elements), salt=SALT)[0]

    one = volume(PatientID="ID 7 ", StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.4", InstanceNumber=9)
    assert one.subject == hmac.new(SALT, b"ID 7", hashlib.sha256).hexdigest()[:16]
    assert one.number == 9
    assert "1.2" not in one.visit + one.series
    two = volume(PatientID="ID 7", StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.5")
    assert (two.subject, two.visit) == (one.subject, one.visit)
    assert two.series != one.series
    bare = volume()
    assert (bare.subject, bare.visit, bare.series) == (None, "", "")
    assert read(write.dataset(IMAGES, PatientID="ID 7"))[0].subject is None


CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


@pytest.mark.parametrize(
    ("elements", "taken"),
    [
        ({}, True),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.5.1", "Modality": "OP"}, False),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "Modality": "CT"}, False),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.4", "Modality": "OPT"}, True),
        ({"SOPClassUID": CAPTURE + ".2", "Modality": "OT"}, True),
        ({"SOPClassUID": CAPTURE, "Modality": None}, True),
        ({"SOPClassUID": CAPTURE, "Modality": "MR"}, False),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "Modality": "SMITH"}, False),
        ({"BurnedInAnnotation": "YES"}, False),
        ({"BurnedInAnnotation": "NO"}, True),
    ],
)
def test_which_objects_are_taken(elements: dict[str, Any], taken: bool) -> None:
    made = write.dataset(IMAGES, **elements)
    assert len(scans_of(made, any_modality=True)) == 3
    if taken:
        assert len(scans_of(made)) == 3
    else:
        assert "SMITH" not in rule_of(made)


def test_objects_without_an_image_and_files_that_are_none() -> None:
    assert "holds no image" in rule_of(write.dataset(IMAGES, PixelData=None))
    assert "not a DICOM file" in rule_of(b"x" * 1000)
    assert "bits" in rule_of(write.dataset(IMAGES, BitsAllocated=64, BitsStored=64))
    assert "it holds 9999 images" in rule_of(write.dataset(IMAGES, NumberOfFrames=9999))
    assert "at most 40 million" in rule_of(write.dataset(IMAGES, Rows=60000, Columns=60000))
    assert rule_of(write.dataset(IMAGES, NumberOfFrames=4)).startswith("damaged")


def test_dicom_is_known_by_its_bytes() -> None:
    assert len(read_volumes("IM0001", data=write.dicom(write.dataset(IMAGES)))[0].scans) == 3


def test_a_deflated_file_that_would_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("octlet.clinical.dicom.MAX_VOLUME_BYTES", 100_000)
    made = write.dataset(IMAGES[:1], PixelData=bytes(3_000_000))
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    assert "inflates" in rule_of(made)


def test_without_pydicom_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("pydicom", "octlet.clinical.dicom"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    data = (SHIPPED / "MR_small.dcm").read_bytes()
    with pytest.raises(InputError) as caught:
        read_volumes("a.dcm", data=data)
    assert caught.value.remedy == 'pip install "octlet[clinical]"'
    monkeypatch.undo()


def test_warnings_that_quote_the_file_are_kept_back(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    data = write.dicom(write.dataset(IMAGES, StudyInstanceUID="1.2.3.44444", InstanceNumber=1))
    broken = data.replace(b"1.2.3.44444", b"SENTINEL^MR")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_volumes("a.dcm", data=broken)
    assert "SENTINEL" not in "".join(capfd.readouterr()) + caplog.text


@pytest.mark.parametrize("file", SHIPPED_FILES, ids=lambda file: file.name)
def test_what_pydicom_ships_is_read_or_refused(file: Path) -> None:
    data = file.read_bytes()
    with contextlib.suppress(InputError):
        for volume in read_volumes(file, data=data, any_modality=True):
            assert all(scan.dtype == np.uint8 and scan.ndim == 2 for scan in volume.scans)
    if volume_of_another_kind(data):
        with pytest.raises(InputError):
            read_volumes(file, data=data)


def volume_of_another_kind(data: bytes) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return str(pydicom.dcmread(io.BytesIO(data)).get("Modality", "")) in ("CT", "MR", "US", "NM")
    except (pydicom.errors.InvalidDicomError, zlib.error, AttributeError):
        return True


def compressed(syntax: str) -> bytes:
    made = write.dataset(IMAGES[:2])
    made.compress(syntax)
    return write.dicom(made)


def deflated() -> bytes:
    made = write.dataset(IMAGES[:1])
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return write.dicom(made)


SOUND = {
    "plain": write.dicom(write.dataset(IMAGES, WindowCenter=128, WindowWidth=256, PatientID="A")),
    "groups": write.dicom(
        write.dataset(
            IMAGES,
            PerFrameFunctionalGroupsSequence=[
                write.item(FrameAnatomySequence=[write.item(FrameLaterality=side)]) for side in "RLR"
            ],
        )
    ),
    "rle": compressed(RLELossless),
    "jpeg-ls": compressed(JPEGLSLossless),
    "jpeg 2000": compressed(JPEG2000Lossless),
    "jpeg": write.dicom(write.coded(write.dataset(IMAGES), jpegs(IMAGES), JPEGBaseline8Bit)),
    "lossless jpeg": (SHIPPED / "SC_rgb_jpeg_gdcm.dcm").read_bytes(),
    "deflated": deflated(),
}


@pytest.mark.parametrize("kind", SOUND)
@given(data=st.data())
def test_damage_is_always_told(kind: str, data: st.DataObject) -> None:
    content = bytearray(SOUND[kind])
    header = st.integers(132, min(len(content), 1200) - 1)
    for place in data.draw(st.lists(header | st.integers(0, len(content) - 1), max_size=6)):
        content[place] = data.draw(st.integers(0, 255) | st.sampled_from([0, 127, 128, 255]))
    end = data.draw(st.integers(0, len(content)) | st.just(len(content)))
    with contextlib.suppress(InputError):
        for volume in read_volumes("a.dcm", data=bytes(content[:end]), salt=SALT, any_modality=True):
            assert all(scan.dtype == np.uint8 and scan.ndim == 2 for scan in volume.scans)
