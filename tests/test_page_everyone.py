"""The page for every eye and every screen: axe-core, widths from 320 pixels to 4K, colour blindness."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import (
    DOUBT,
    REFUSED,
    add,
    answering,
    banded,
    expect,
    one,
    ready,
    visit,
    volume_answer,
)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return banded(tmp_path_factory.mktemp("scans"), "0", "1", "2")


def _states(page: Any, scans: list[Path], folder: Path) -> Iterator[str]:
    """Bring the page into each of its states."""
    yield "empty"
    page.keyboard.press("?")
    yield "keys"
    page.keyboard.press("Escape")
    (folder / "v.tiff").write_bytes(b"whatever")
    (folder / "w.png").write_bytes(b"no image")
    answering(page, one(DOUBT))
    add(page, scans[:1])
    yield "doubt"
    page.unroute("**/api/predict*")
    answering(page, volume_answer())
    add(page, [folder / "v.tiff"])
    yield "volume"
    page.unroute("**/api/predict*")
    answering(page, one(REFUSED))
    add(page, scans[1:2])
    yield "refused"
    page.get_by_role("button", name="What the model would have said").click()
    yield "second-hand"
    page.unroute("**/api/predict*")
    add(page, [folder / "w.png"])
    yield "failed"
    page.route("**/api/predict*", lambda route: route.abort())
    page.set_input_files("#files", scans)
    expect(page.locator("#resume")).to_be_visible()
    yield "offline"
    page.locator("#clear").click()
    yield "clear"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(
    browser: Any, url: str, scans: list[Path], tmp_path: Path, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the extra 'browser'")
    with visit(browser, url, color_scheme=scheme, reduced_motion="reduce") as page:
        for state in _states(ready(page), scans, tmp_path):
            found = axe.Axe().run(page)
            assert found.violations_count == 0, f"{state}: {found.generate_report()}"


@pytest.mark.parametrize("width", [320, 768, 1440, 3840])
def test_every_width_shows_all_and_the_notice_always(
    browser: Any, url: str, scans: list[Path], tmp_path: Path, width: int
) -> None:
    with visit(browser, url, viewport={"width": width, "height": 700}) as page:
        for state in _states(ready(page), scans, tmp_path):
            assert page.evaluate("() => document.documentElement.scrollWidth") <= width, state
            page.evaluate("() => scrollTo(0, 1e6)")
            box = page.locator("#notice").bounding_box()
            assert 0 <= box["y"] < 120, state
            if state == "doubt":
                page.evaluate("() => scrollTo(0, 0)")
                page.locator(".entry").last.click()
                expect(page.locator("#verdict")).to_be_in_viewport()
                scan, heat = (page.locator(name).bounding_box() for name in ("figure >> nth=0", "#heat"))
                assert (heat["y"] > scan["y"] + scan["height"] - 1) == (width == 320)
                assert (heat["x"] > scan["x"] + scan["width"] - 1) == (width > 320)


# Machado, Oliveira and Fernandes 2009, IEEE TVCG 15:1291, severity 1, for linear RGB
BLINDNESS = {
    "none": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}
TO_XYZ = np.array(  # of sRGB, IEC 61966-2-1
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
)


def lab(colour: str, matrix: Any) -> np.ndarray:
    """CIE L*a*b* of a CSS colour, as seen with a colour blindness."""
    value = np.array([int(part) for part in re.findall(r"\d+", colour)[:3]]) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(np.asarray(matrix) @ linear, 0, 1) / [0.95047, 1, 1.08883]
    root = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_urgencies_differ_in_word_shape_and_colour_for_every_eye(browser: Any, url: str, scheme: str) -> None:
    with visit(browser, url, color_scheme=scheme) as page:
        ready(page)
        legend = page.locator(".legend li")
        assert len(set(legend.locator("b").all_text_contents())) == 4
        shapes = {use.get_attribute("href") for use in legend.locator("use").all()}
        drawn = {page.locator(f"{shape} .shape").evaluate("(e) => e.outerHTML") for shape in shapes}
        assert len(drawn) == 4
        script = """(names) => names.map((name) => {
            const probe = document.body.appendChild(document.createElement("i"));
            probe.style.color = `var(--${name}-fill)`;
            return getComputedStyle(probe).color;
        })"""
        colours = page.evaluate(script, ["urgent", "routine", "observation", "unknown"])
        for name, matrix in BLINDNESS.items():
            seen = [lab(colour, matrix) for colour in colours]
            apart = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]]
            assert min(apart) > 15, name  # 2.3 can just be noticed
