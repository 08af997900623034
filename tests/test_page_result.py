"""What the page of a real `octlet serve` shows of a scan and of a volume, in a headless Chromium."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import encoded
from browsing import (
    DOUBT,
    MAP,
    REFUSED,
    add,
    answering,
    banded,
    done,
    expect,
    one,
    pixels,
    prediction,
    volume_answer,
)
from easy import band
from PIL import Image, ImageChops

from octlet.core.labels import LABELS, NOTICE
from octlet.runtime.heatmap import coarse, strength
from octlet.runtime.predictor import Grid


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return banded(tmp_path_factory.mktemp("scans"), "b 2", "b 10", "=1+1")


# What is shown -------------------------------------------------------------------------------------------


def test_a_refusal_comes_first_and_the_class_only_when_asked_for(page: Any, scans: list[Path]) -> None:
    answering(page, one(REFUSED))
    add(page, scans[:1])
    expect(page.locator("#verdict-word")).to_have_text("Not an OCT scan")
    expect(page.locator("#verdict-why")).to_have_text("Unlike any scan.")
    assert "CNV" not in page.locator("#viewer").inner_text()
    expect(page.locator(".entry .said")).to_have_text("Not an OCT scan")
    expect(page.locator("#heat")).to_be_hidden()
    page.get_by_role("button", name="What the model would have said").click()
    expect(page.locator("#measures-title")).to_contain_text("do not rely on this")
    expect(page.locator("#heat")).to_be_visible()


def test_a_doubt_shows_its_set_and_no_single_figure(page: Any, scans: list[Path]) -> None:
    answering(page, one(DOUBT))
    add(page, scans[:1])
    expect(page.locator("#verdict-word")).to_have_text("Urgent")
    expect(page.locator("#verdict-line")).to_have_text("Uncertain: NORMAL or CNV")
    expect(page.locator("#verdict-share")).to_be_hidden()
    members = page.locator("#bars .member").all_text_contents()
    assert members == ["in the 95 % set", "ruled out", "ruled out", "in the 95 % set"]
    with page.expect_download() as download:
        page.get_by_role("button", name="Save CSV").click()
    assert download.value.path().read_text().endswith(f",NORMAL CNV,uncertain,{NOTICE}\n")


def test_an_empty_set_is_told_as_one(page: Any, scans: list[Path]) -> None:
    answering(page, one(DOUBT | {"set": []}))
    add(page, scans[:1])
    expect(page.locator("#set")).to_have_text("No class is probable enough for the 95 % set.")
    expect(page.locator("#verdict-line")).to_have_text("Uncertain: perhaps NORMAL")
    expect(page.locator("#bars .top .member")).to_have_text("not in the 95 % set")


def test_the_slider_fades_the_heatmap_over_the_same_scan(page: Any, scans: list[Path]) -> None:
    add(page, scans[:1])
    bare, full = pixels(page, ".figures > figure:first-child .stage"), pixels(page, "#heat .stage")
    page.locator("#opacity").focus()
    page.keyboard.press("Home")
    expect(page.locator("#opacity-value")).to_have_text("0 %")
    faded = pixels(page, "#heat .stage")
    assert ImageChops.difference(full, faded).getbbox()
    assert np.abs(np.asarray(faded, int) - np.asarray(bare.resize(faded.size), int)).mean() < 2


def test_the_map_is_drawn_as_the_runtime_draws_it(page: Any) -> None:
    cam = np.abs(np.random.default_rng(0).normal(0, 2, (4, 8, 8))).astype(np.float32)
    script = """async (map) => Array.from((await import("/heat.js")).strength(map, "DME", 90, 70))"""
    drawn = np.reshape(
        page.evaluate(script, coarse(np.zeros((70, 90), np.uint8), cam, Grid(256), (0, 0, 90, 70))), (70, 90)
    )
    scale = cam[1].max() / cam.max()  # there each class has one of its own
    assert scale < 0.95
    assert np.abs(drawn - scale * strength(cam[1], Grid(256), 90, 70)).max() < 0.02


def test_a_photograph_s_turn_is_left_out_as_the_server_leaves_it_out(page: Any, tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: a quarter
    Image.fromarray(band(1, np.random.default_rng(5))).save(tmp_path / "a.jpeg", exif=turned)
    add(page, [tmp_path / "a.jpeg"])
    expect(page.locator("#result")).to_be_visible()
    shown = pixels(page, "#scan").resize((64, 48))
    sent = Image.open(tmp_path / "a.jpeg")
    assert np.abs(np.asarray(shown.convert("L"), int) - np.asarray(sent, int)).mean() < 12


def test_a_class_can_be_chosen_for_the_map(page: Any, scans: list[Path]) -> None:
    levels = {label: [[60 * i]] for i, label in enumerate(LABELS)}
    answering(page, one(prediction("a.png", "CNV", "urgent", map=MAP | {"evidence": levels})))
    add(page, scans[:1])
    expect(page.locator("#caption")).to_contain_text("Nothing in this scan speaks for CNV.")
    plain = pixels(page, "#heat .stage")
    page.get_by_role("radio", name="NORMAL").check()
    expect(page.locator("#caption")).to_contain_text("speaks more for NORMAL")
    assert ImageChops.difference(plain, pixels(page, "#heat .stage")).getbbox()


# Slices --------------------------------------------------------------------------------------------------


def test_scans_of_a_folder_have_a_slider_that_marks_the_urgent(page: Any, tmp_path: Path) -> None:
    folder = tmp_path / "eye"
    folder.mkdir()
    urgencies = ["observation", "urgent", "routine", "urgent"]
    for number in range(4):
        (folder / f"{number}.png").write_bytes(encoded(band(number, np.random.default_rng(number))))
    answering(page, *(one(prediction("x.png", "DRUSEN", urgency)) for urgency in urgencies))
    page.set_input_files("#folder", folder)
    done(page, 4)
    expect(page.locator("#stack-title")).to_have_text("Scan 1 of 4 in eye")
    expect(page.locator("#stack-note")).to_have_text("Urgent: 2, 4.")
    marks = page.locator("#marks i:not(.at)")
    assert [mark.get_attribute("class") for mark in marks.all()] == urgencies
    page.get_by_role("button", name="Next urgent").click()
    expect(page.locator("#file")).to_have_text("eye/1.png")
    page.locator("#slice").fill("3")
    expect(page.locator("#file")).to_have_text("eye/3.png")
    expect(page.locator("#slice")).to_have_attribute("aria-valuetext", re.compile("^Scan 4 of 4, Urgent"))
    expect(page.locator(".entry[aria-current] .name")).to_have_text("3.png")


def test_the_pages_of_a_tiff_are_slices(page: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    first, *rest = (Image.fromarray(band(number, rng)) for number in range(3))
    first.save(tmp_path / "eye.tif", save_all=True, append_images=rest)
    add(page, [tmp_path / "eye.tif"])
    expect(page.locator("#stack-title")).to_contain_text("of 3")
    expect(page.locator("#eyes li")).to_have_count(1)
    page.locator("#slice").fill("1")
    expect(page.locator("#file")).to_have_text("eye.tif#2")
    assert page.locator("#scan").evaluate("(image) => [image.naturalWidth, image.naturalHeight]") == [64, 48]


def test_a_volume_is_one_row_opened_at_its_most_pressing_slice(page: Any, tmp_path: Path) -> None:
    (tmp_path / "v.tiff").write_bytes(b"whatever")
    answering(page, volume_answer())
    with page.expect_request("**/api/predict*") as asked:
        add(page, [tmp_path / "v.tiff"])
    assert "scan=png" in asked.value.url
    expect(page.locator("#stack-title")).to_have_text("Slice 3 of 4")
    expect(page.locator("#eyes b")).to_have_text("Left eye: Urgent, CNV 91 %")
    expect(page.locator("#eyes li")).to_contain_text("Three neighbours agree. 1 slice of 5 left out.")
    expect(page.locator("#file")).to_have_text("v.tiff#3")
    assert pixels(page, "#scan").getpixel((9, 9)) == (150, 150, 150)
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#verdict-word")).to_have_text("Routine")
    assert pixels(page, "#scan").getpixel((9, 9)) == (100, 100, 100)
    page.keyboard.press("n")
    expect(page.locator("#file")).to_have_text("v.tiff#3")
    expect(page.locator(".entry")).to_have_count(1)
