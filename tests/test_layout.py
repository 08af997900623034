"""How an image is laid out, and what is refused for it."""

import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import scipy.spatial.distance
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage import data

from octlet.core.bundle import open_bundle, parse_manifest
from octlet.core.errors import ModelFileError
from octlet.core.files import dump_json
from octlet.core.layout import MEASURES, _quantile, layout_of, levels_of
from octlet.core.quality import measure
from octlet.core.trust import Layout, off_centre
from octlet.data.phantom import simulate
from octlet.data.source import open_source, read_pixels
from octlet.evaluate.trust import layout_of_many
from octlet.runtime.predictor import Predictor
from octlet.runtime.shipped import shipped

LAYOUT = Layout(dict.fromkeys(MEASURES, 0.0), dict.fromkeys(MEASURES, 2.0), 0.01, 1.5)


def measured(image):
    return dict(zip(MEASURES, layout_of(levels_of(image)), strict=True))


def phantom(seed=0, label="NORMAL"):
    return simulate(label, np.random.default_rng(seed), shape=(496, 768)).pixels


def band(slope=0.0, bow=0.0):
    """Return a bright band, an eighth of the height, whose middle runs as it is told."""
    rows, columns = np.mgrid[0:640, 0:320]
    along = columns / 320 - 0.5
    middle = 320 + 640 * (slope * along + bow * along**2)
    return np.where(abs(rows + 0.5 - middle) <= 40, 180, 20).astype(np.uint8)


def test_a_level_band_is_what_it_is():
    found = measured(band())
    assert found["bright"] == found["thickness"] == pytest.approx(1 / 8)
    assert found["dark"] == pytest.approx(7 / 8)
    assert (found["jump"], found["bend"]) == pytest.approx((0, 0), abs=1e-6)
    assert found["across"] == pytest.approx(1, abs=1e-4)
    assert found["layers"] > 3  # nothing changes along a row


def test_slopes_and_bows_are_told_apart():
    sloped, bowed, waved = measured(band(slope=0.4)), measured(band(bow=1.0)), band()
    assert sloped["jump"] == pytest.approx(0.4 / 32, rel=0.15)  # blocks that are half tissue
    assert (sloped["bend"], bowed["bend"]) == pytest.approx((0, 0), abs=2e-3)  # either is a parabola
    for column in range(320):
        waved[:, column] = np.roll(waved[:, column], round(64 * np.sin(column / 320 * 6 * np.pi)))
    places = np.linspace(-1, 1, 32)
    wave = 0.1 * np.sin((places + 1) * 3 * np.pi)
    rest = wave - np.polynomial.Polynomial.fit(places, wave, 2)(places)
    assert measured(waved)["bend"] == pytest.approx(rest.std(), rel=0.05)


def test_correlations_are_pearsons():
    grey = np.random.default_rng(0).integers(0, 256, (64, 32), dtype=np.uint8)  # a block for each pixel
    grey[:, 1:] = grey[:, 1:] // 2 + grey[:, :-1] // 2
    found = measured(grey)
    columns = [np.corrcoef(grey[:, k], grey[:, k + 4])[0, 1] for k in range(28)]
    rows = [np.corrcoef(grey[k], grey[k + 4])[0, 1] for k in range(60)]
    assert found["across"] == pytest.approx(np.median(columns), abs=1e-4)
    assert found["rows"] == pytest.approx(np.median(rows), abs=1e-4)
    centred = grey - grey.mean(axis=0)
    itself = [np.correlate(each, each, "full")[63 + 6] / (each @ each) for each in centred.T]
    assert found["depth"] == pytest.approx(np.median(itself), abs=1e-4)
    down, along = (np.abs(np.diff(grey.astype(int), axis=axis)).mean() for axis in (0, 1))
    assert found["layers"] == pytest.approx(np.log(2 * down / along), abs=0.01)


def test_sampling_and_light_tell_nothing():
    scan = phantom()
    plain = np.array(layout_of(levels_of(scan)))
    finer = np.array(layout_of(levels_of(np.kron(scan, np.ones((2, 3), np.uint8)))))
    dimmer = np.array(layout_of(levels_of((scan * 0.7 + 20).astype(np.uint8))))
    np.testing.assert_allclose(finer, plain, atol=0.01)
    np.testing.assert_allclose(dimmer, plain, atol=0.03)


@given(
    st.integers(16, 70),
    st.integers(16, 70),
    st.integers(0, 2**32 - 1),
    st.sampled_from((1, 16, 256)),
)
def test_any_image_has_a_layout(height, width, seed, levels):
    image = np.random.default_rng(seed).integers(0, levels, (height, width), dtype=np.uint8)
    found = layout_of(levels_of(image))
    assert len(found) == len(MEASURES)
    assert np.isfinite(found).all()


def test_padding_is_no_part_of_it():
    scan = phantom()
    padded = np.full((600, 900), 255, np.uint8)
    padded[50:546, 60:828] = scan
    inner = measure(scan[3:-3, 3:-3]).layout  # the rim of padding counts as padding
    np.testing.assert_allclose(measure(padded).layout, inner, atol=0.05)
    assert measure(np.full((64, 64), 255, np.uint8)).layout == ()


def test_the_distance_is_a_standardised_euclidean_one():
    rng = np.random.default_rng(0)
    known, new = rng.normal(2, 3, (50, 9)), rng.normal(2, 3, (7, 9))
    centre, scale = layout_of_many(known)
    np.testing.assert_allclose(centre, known.mean(axis=0))
    np.testing.assert_allclose(scale, known.std(axis=0) + 1e-3)
    wanted = [scipy.spatial.distance.seuclidean(each, centre, scale**2) / 3 for each in new]
    np.testing.assert_allclose(off_centre(new, centre, scale), wanted)
    assert LAYOUT.distance_of((4.0,) * 9) == 2.0


def test_other_pictures_lie_far_from_phantoms():
    known = np.array([measure(phantom(seed, label)).layout for seed in range(12) for label in ("CNV", "DME")])
    usual = layout_of_many(known)
    near = off_centre(np.array([measure(phantom(seed, "DRUSEN")).layout for seed in range(20, 30)]), *usual)
    others = [data.camera(), data.coins(), data.page(), data.moon(), np.rot90(phantom())]
    far = off_centre(np.array([measure(np.asarray(each)).layout for each in others]), *usual)
    assert far.min() > near.max()


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"centre": {"layers": 0.0}}, "measures"),
        ({"centre": dict.fromkeys(reversed(MEASURES), 0.0)}, "measures"),
        ({"centre": dict.fromkeys(MEASURES, float("inf"))}, "measures"),
        ({"scale": dict.fromkeys(MEASURES, 0.0)}, "measures"),
        ({"distance": 0.0}, "above 0"),
        ({"distance": float("nan")}, "above 0"),
    ],
)
def test_a_layout_out_of_range_is_none(changes, rule):
    with pytest.raises(ModelFileError, match=rule):
        replace(LAYOUT, **changes)


def test_the_model_that_ships_refuses_pictures_for_their_layout():
    trust = Predictor.open(shipped()).trust
    scan = np.asarray(Image.fromarray(data.camera()).resize((512, 496)))
    assert "laid out like" in trust.refuses(0.0, measure(scan).layout)
    assert trust.refuses(0.0, measure(phantom()).layout) is None
    assert trust.refuses(0.0) is None  # nothing was measured
    assert "laid out" not in trust.refuses(1e6, measure(scan).layout)


def test_a_file_of_before_there_was_a_layout_is_read(model_file):
    manifest = open_bundle(model_file).manifest
    plain = asdict(manifest)
    assert plain.pop("layout") is None
    assert parse_manifest(dump_json(plain).encode()) == manifest


@given(st.integers(1, 40), st.floats(0, 0.99), st.integers(0, 2**32 - 1))
def test_quantiles_are_numpys(n, share, seed):
    values = np.random.default_rng(seed).normal(size=(n + 1, 3))
    np.testing.assert_allclose(_quantile(values, share), np.quantile(values, share, axis=0))


@pytest.mark.skipif("OCTLET_DATA" not in os.environ, reason="OCTLET_DATA names no folder of real scans")
def test_the_model_that_ships_knows_the_layout_of_its_scans():
    scans = open_source(Path(os.environ["OCTLET_DATA"]))
    known = np.array([measure(read_pixels(scans.root, item.path)).layout for item in scans])
    usual = open_bundle(shipped()).manifest.layout
    wanted = layout_of_many(known)
    for found, each in zip((usual.centre, usual.scale), wanted, strict=True):
        np.testing.assert_allclose(list(found.values()), each, atol=1e-6)
