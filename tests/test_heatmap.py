"""Heatmaps: a class activation map over its scan."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
from engines import FakeEngine, scans
from numpy.typing import NDArray
from PIL import Image

from octlet.core.bundle import open_bundle
from octlet.core.labels import NOTICE
from octlet.runtime.heatmap import LEAST, OPACITY, RAMP, overlay, overlay_names, strength, write_overlay
from octlet.runtime.predictor import Grid, Predictor


@pytest.mark.parametrize(("size", "cells"), [(224, 7), (128, 4), (100, 4), (33, 2), (32, 1)])
def test_strength_against_scipy(size: int, cells: int) -> None:
    cam = np.random.default_rng(0).normal(2, 4, (cells, cells)).astype(np.float32)
    y, x = ((np.arange(n) + 0.5) * size / n - 0.5 for n in (90, 130))  # of each pixel, in the network's input
    grid = np.meshgrid(y / 32, x / 32, indexing="ij")  # cell i is centred on pixel 32 i
    wide = scipy.ndimage.map_coordinates(cam, grid, order=1, mode="nearest")
    expected = np.clip(wide / max(cam.max(), LEAST), 0, 1)
    np.testing.assert_allclose(strength(cam, Grid(size), 130, 90), expected, atol=1e-4)


@pytest.mark.parametrize("family", ["v1.5", "v2"])
def test_a_cell_of_the_map_sees_the_pixels_that_it_is_drawn_on(family: str) -> None:
    torch = pytest.importorskip("torch")
    from octlet.models.resnet import build
    from octlet.models.spec import NetSpec, UnitSpec

    kinds = {"v1.5": ((8, 8), (1, 2, 2, 2)), "v2": ((8, 8, 8), (2, 2, 2))}
    widths, strides = kinds[family]
    stages = tuple((UnitSpec(widths, stride, True),) for stride in strides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build(NetSpec(family, 8, stages)).eval()
    assert net(torch.zeros(1, 1, 512, 512)).cam.shape[2:] == (16, 16)
    np.testing.assert_allclose(_seen_by(net, 512, (8, 6)), [8 * 32, 6 * 32], atol=3)
    assert Grid(512).span(16) == ((32 - 1) / 64, (32 - 1) / 64 + 16)


@pytest.mark.parametrize("size", [96, 97, 100, 102])
def test_a_cell_of_lite0_lies_further_on_where_its_strides_halve_even_sides(size: int) -> None:
    pytest.importorskip("torch")
    from lite import random_net

    cells = math.ceil(size / 8)
    begin, end = Grid(size, same=True).span(cells)
    expected = [(cell + 0.5 - begin) / (end - begin) * size - 0.5 for cell in (6, 7)]
    assert expected[0] - 6 * 8 == {96: 1 + 2 + 4, 97: 0, 100: 1 + 2, 102: 1 + 4}[size]
    np.testing.assert_allclose(_seen_by(random_net(), size, (6, 7)), expected, atol=0.6)


def _seen_by(net: Any, size: int, cell: tuple[int, int]) -> NDArray[np.float64]:
    """Return the middle of the pixels that a cell of the map depends on."""
    import torch

    image = torch.randn(8, 1, size, size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    net(image).cam[(slice(None), slice(None), *cell)].abs().sum().backward()
    assert image.grad is not None
    seen = np.argwhere((image.grad != 0).any(dim=0)[0].numpy())
    return (seen.min(axis=0) + seen.max(axis=0)) / 2


def test_faint_evidence_stays_faint() -> None:
    assert strength(np.full((7, 7), LEAST / 10, np.float32), Grid(224), 20, 20).max() == pytest.approx(0.1)
    assert strength(np.full((7, 7), -5, np.float32), Grid(224), 20, 20).max() == 0
    assert strength(np.full((7, 7), 50, np.float32), Grid(224), 20, 20).min() == 1


def test_an_overlay_lies_in_the_box_and_nowhere_else() -> None:
    gray = scans(1)[0]
    box = (10, 5, 70, 60)
    cam = np.zeros((4, 4), np.float32)
    cam[:, 3] = 9.0
    image = overlay(gray, cam, Grid(128), box)
    assert image.shape == (*gray.shape, 3)
    outside = np.ones(gray.shape, bool)
    outside[5:60, 10:70] = False
    assert (image[outside] == gray[outside][:, None]).all()
    assert (image[5:60, 10:30] == gray[5:60, 10:30, None]).all()  # no evidence, no colour
    full = np.rint((1 - OPACITY) * gray[30, 69] + OPACITY * RAMP[1])
    np.testing.assert_allclose(image[30, 69], full, atol=1)
    assert gray.max() < 200  # the scan itself is untouched


def test_a_heatmap_of_a_cropped_scan_is_where_the_scan_is(model_file: Path) -> None:
    gray = np.full((200, 160), 255, np.uint8)
    gray[50:180, 20:130] = np.random.default_rng(1).integers(0, 120, (130, 110), dtype=np.uint8)
    (box,) = Predictor(open_bundle(model_file), FakeEngine()).run([gray]).boxes
    image = overlay(gray, np.full((2, 2), 3, np.float32), Grid(64), box)
    coloured = np.argwhere((image != gray[:, :, None]).any(axis=2))
    top, left = coloured.min(axis=0)
    bottom, right = coloured.max(axis=0) + 1
    assert (
        np.abs(np.array([left, top, right, bottom]) - [20, 50, 130, 180]).max() <= 4
    )  # the padding's fringe


def test_a_heatmap_file_carries_the_notice_and_no_name(tmp_path: Path) -> None:
    gray = scans(1)[0]
    cam = np.stack([np.full((2, 2), value, np.float32) for value in (0, 0, 5, 0)])
    path = tmp_path / "deep" / "x.heatmap.png"
    write_overlay(path, gray, cam, Grid(64), (0, 0, 120, 90), "DRUSEN")
    image = Image.open(path)
    assert (image.mode, image.size) == ("RGB", (120, 90))
    assert image.text == {"Description": "Class activation map of DRUSEN (drusen)", "Disclaimer": NOTICE}  # type: ignore[attr-defined]
    np.testing.assert_array_equal(np.asarray(image), overlay(gray, cam[2], Grid(64), (0, 0, 120, 90)))


def test_heatmap_names_are_unique_and_of_the_file_alone() -> None:
    files = ["Doe John/a.png", "Roe Jane/A.jpeg", "Doe John/a-2.png", "a.png", "b.tar.png", "\ufffd.png"]
    names = overlay_names(files)
    assert names[0] == "a.heatmap.png"
    assert len({name.casefold() for name in names}) == len(files)
    assert not any("Doe" in name or "/" in name for name in names)
    assert names[4:] == ["b.tar.heatmap.png", "\ufffd.heatmap.png"]
    many = overlay_names(["x/1.png"] * 5000)
    assert len(set(many)) == 5000
