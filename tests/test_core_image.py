import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from octlet.core import image
from octlet.core.errors import InputError
from octlet.core.image import decode, normalise, padding_mask, prepare, read_scan, retina_window


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def scene(height: int = 496, width: int = 512) -> np.ndarray:
    """A smooth dark picture with a bright band: a B-scan without speckle."""
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width])[:, None, None]
    band = np.exp(-(((y - 0.5 - 0.1 * np.sin(3 * x)) / 0.08) ** 2))
    return (20 + 180 * band + 15 * np.cos(9 * x)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_gray_pixels_come_through_unchanged(kind):
    assert np.array_equal(decode(encoded(scene(), kind), "s"), scene())


def test_colour_becomes_luma():
    rgb = np.zeros((20, 30, 3), np.uint8)
    rgb[..., 0], rgb[..., 1], rgb[..., 2] = 200, 100, 50
    assert np.abs(decode(encoded(rgb), "s").astype(int) - (0.299 * 200 + 0.587 * 100 + 0.114 * 50)).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_whose_white_is_zero_is_no_negative(dtype):
    top = np.iinfo(dtype).max
    stored = np.tile(np.linspace(0, top, 32).astype(dtype), (32, 1))
    data = stored.tobytes()
    tags = [(256, 32), (257, 32), (258, 8 * stored.itemsize), (259, 1), (262, 0), (273, 8), (277, 1)]
    tags += [(278, 32), (279, len(data))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    file = (
        b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)
    )
    assert decode(file, "a.tif")[0, [0, -1]].tolist() == [255, 0]


def test_sixteen_bits_are_scaled_by_their_full_range():
    wide = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    assert np.array_equal(decode(encoded(wide), "s"), np.round(wide / 257).astype(np.uint8))


def test_palettes_and_opaque_alpha_are_taken():
    gray = Image.fromarray(scene(32, 32))
    for mode in ("P", "LA", "RGBA"):
        out = io.BytesIO()
        gray.convert(mode).save(out, "PNG")
        assert np.abs(decode(out.getvalue(), "s").astype(int) - scene(32, 32)).max() <= 1


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"", "empty"),
        (b"patient,label\n1,CNV\n", "not a readable"),
        (encoded(scene())[:400], "damaged"),
        (encoded(scene(), "JPEG")[:3000], "damaged"),
        (encoded(scene(), "GIF"), "not a readable"),
        (encoded(scene(16, 15)), "15x16"),
    ],
)
def test_what_is_no_whole_image_is_refused_by_name(data, rule):
    with pytest.raises(InputError, match=rule) as caught:
        decode(data, "scan.png")
    assert caught.value.path == "scan.png"
    assert caught.value.remedy


def test_stacks_transparency_unranged_pixels_and_bombs_are_refused(monkeypatch):
    frames = [Image.fromarray(scene(32, 32)) for _ in range(3)]
    out = io.BytesIO()
    frames[0].save(out, "TIFF", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match="3 images"):
        decode(out.getvalue(), "s")
    rgba = np.full((32, 32, 4), 100, np.uint8)
    with pytest.raises(InputError, match="transparent"):
        decode(encoded(rgba), "s")
    with pytest.raises(InputError, match="no stated range"):
        decode(encoded(scene(32, 32).astype(np.float32), "TIFF"), "s")
    monkeypatch.setattr(image, "MAX_PIXELS", 1000)
    with pytest.raises(InputError, match="million pixels"):
        decode(encoded(scene(32, 32)), "s")


def test_files_are_checked_before_they_are_read(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no such file"):
        read_scan(tmp_path / "none.png")
    with pytest.raises(InputError, match="not a file"):
        read_scan(tmp_path)
    (tmp_path / "s.png").write_bytes(encoded(scene()))
    assert np.array_equal(read_scan(tmp_path / "s.png"), scene())
    monkeypatch.setattr(image, "MAX_BYTES", 10)
    with pytest.raises(InputError, match="limit"):
        read_scan(tmp_path / "s.png")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_bytes_give_an_image_or_an_input_error_and_nothing_else(data):
    whole = encoded(scene(24, 24), data.draw(st.sampled_from(["PNG", "JPEG", "BMP", "TIFF"])))
    cut = bytearray(whole[: data.draw(st.integers(1, len(whole)))])
    cut[data.draw(st.integers(0, len(cut) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert decode(bytes(cut), "s").dtype == np.uint8
    except InputError as error:
        assert error.rule  # noqa: PT017


def test_padding_is_found_and_tissue_is_not():
    scan = scene()
    scan[200:230, 100:300] = 255  # a saturated layer inside
    scan[210:214, :30] = 255  # and one that touches the border, thinner than padding
    assert not padding_mask(scan).any()
    scan[:90] = 255
    scan[:, -20:] = 255
    mask = padding_mask(scan)
    assert mask[:90].all()
    assert mask[:, -20:].all()
    assert not mask[100:, :-30].any()


@pytest.mark.parametrize("bars", [(40, 0, 0, 0), (0, 25, 0, 0), (13, 60, 31, 90)])
def test_white_padding_changes_nothing(bars):
    top, bottom, left, right = bars
    padded = np.pad(scene(), ((top, bottom), (left, right)), constant_values=255)
    whole, found = prepare(scene(), 96), prepare(padded, 96)
    fringe = 3  # what `prepare` cuts beside padding may also be compression's smear
    moved = np.add(whole.box, [left, top, left, top])
    assert np.abs(np.array(found.box) - moved).max() <= fringe
    assert np.abs(whole.pixels.astype(int) - found.pixels).max() <= 12
    assert np.abs(whole.pixels.astype(int) - found.pixels).mean() < 1.5


def test_a_wedge_of_padding_takes_the_level_of_the_background():
    scan = scene()
    y, x = np.mgrid[0:496, 0:512]
    scan[y < 0.4 * x] = 255
    prepared = prepare(scan, 96)
    assert prepared.pixels.max() < 230
    assert abs(int(prepared.pixels[2, 90]) - int(np.median(scan[scan < 245]))) <= 1


@pytest.mark.parametrize("shape", [(496, 768), (496, 1024), (496, 1536), (512, 512), (992, 1024)])
def test_the_same_eye_sampled_at_another_shape_gives_the_same_array(shape):
    one, other = prepare(scene(496, 512), 96).pixels, prepare(scene(*shape), 96).pixels
    assert np.abs(one.astype(int) - other).max() <= 3


def test_the_window_follows_the_retina():
    flat = np.full((400, 300), 20, np.uint8)
    flat[150:180] = 200
    assert retina_window(flat, 20) == (164 - 128, 164 + 128)  # 64 % about the middle row of the tissue
    low = np.roll(flat, 200, axis=0)
    assert retina_window(low, 20) == (400 - 256, 400)  # never outside of the scan


def test_a_window_that_has_grown_lies_about_the_whole_retina():
    deep = np.full((400, 30), 20, np.uint8)
    deep[40:60] = 200  # most of the tissue
    deep[60:340] = 60
    first, last = retina_window(deep, 20)
    assert first <= 45
    assert 335 <= last <= 345


def test_the_window_grows_with_a_tilted_retina_and_stays_whole_without_one():
    y, x = np.mgrid[0:400, 0:300]
    tilted = np.where(np.abs(y - 30 - 1.1 * x) < 12, 200, 20).astype(np.uint8)
    first, last = retina_window(tilted, 20)
    kept = np.maximum(tilted.astype(int) - 35, 0)
    assert last - first > 300
    assert kept[first:last].sum() > 0.97 * kept.sum()
    assert retina_window(np.full((40, 30), 7, np.uint8), 7) == (0, 40)


def test_prepare_refuses_a_white_image_and_normalise_maps_the_ends():
    with pytest.raises(InputError, match="white throughout"):
        prepare(np.full((50, 50), 255, np.uint8), 32)
    ends = normalise(np.array([[[0, 255], [127, 128]]], np.uint8))
    assert ends.shape == (1, 1, 2, 2)
    assert ends.dtype == np.float32
    np.testing.assert_allclose(ends[0, 0], [[-1, 1], [-1 / 255, 1 / 255]], atol=1e-6)


def wedged():
    """A scene with the white wedge and bars that a scanner leaves."""
    scan = scene()
    y, x = np.mgrid[0:496, 0:512]
    scan[y < 0.4 * x - 60] = 255
    scan[-20:] = 255
    return scan


@pytest.mark.parametrize("gamma", [0.7, 1.0, 1.6])
@pytest.mark.parametrize(("darkest", "brightest"), [(0, 180), (30, 140), (60, 235)])
def test_white_that_a_viewer_made_grey_is_padding_still(gamma, darkest, brightest):
    white = wedged()
    share = (white / 255) ** gamma
    grey = np.rint(darkest + (brightest - darkest) * share).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "JPEG", quality=80)
    shown = decode(buffer.getvalue(), "shown")
    assert not (padding_mask(white) ^ padding_mask(shown))[8:-30].mean() > 0.01
    wanted, found = prepare(white, 96).box, prepare(shown, 96).box
    assert np.abs(np.subtract(wanted, found)).max() <= 8


def test_what_is_not_the_brightest_or_not_wide_is_no_padding():
    scan = scene()
    assert scan.max() < 245
    tissue = scan.copy()
    tissue[:60] = scan.max() - 60  # a bright band at the edge, of less than the retina's level
    assert not padding_mask(tissue).any()
    narrow = scan.copy()
    narrow[:50, 100:110] = 240  # an artefact that meets the edge
    assert not padding_mask(narrow).any()
    narrow[:50, 100:140] = 240
    assert padding_mask(narrow)[:50, 100:140].all()
    even = np.full((64, 64), 90, np.uint8)
    even[30:40] = 100  # next to nothing is brighter, but nothing is much darker
    assert not padding_mask(even).any()


@pytest.mark.parametrize("level", [0, 5, 30, 128, 240])
def test_a_picture_of_one_level_has_no_padding_unless_it_is_white(level):
    even = np.full((40, 50), level, np.uint8)
    assert not padding_mask(even).any()
    assert padding_mask(even | 245).all()
