"""The page of a real `octlet serve` in a headless Chromium: what a person does with it, and what they see."""

import csv
import io
import re
from pathlib import Path
from typing import Any

import pytest
from browsing import (
    REFUSED,
    add,
    answering,
    banded,
    done,
    drop,
    expect,
    one,
    prediction,
    ready,
    serving,
    visit,
)
from easy import result_of

from octlet.core.labels import LABELS, NOTICE
from octlet.core.prediction import CSV_COLUMNS

HOSTILE = "<img src=x onerror=alert(1)>.png"


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return banded(tmp_path_factory.mktemp("scans"), "b 2", "b 10", "=1+1")


# Adding --------------------------------------------------------------------------------------------------


def test_files_and_a_folder_are_dropped_and_nothing_is_lost(
    page: Any, scans: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "Eye" / "left"
    folder.mkdir(parents=True)
    for number in (10, 9):
        (folder / f"s{number}.png").write_bytes(scans[0].read_bytes())
    (folder / "notes.txt").write_text("no scan")
    (tmp_path / HOSTILE).write_bytes(scans[1].read_bytes())
    (tmp_path / "broken.png").write_bytes(b"no image")
    drop(page, [tmp_path / "broken.png", tmp_path / HOSTILE, tmp_path / "Eye"])
    done(page, 4)
    names = page.locator(".entry .name").all_text_contents()
    assert names == [HOSTILE, "broken.png", "s9.png", "s10.png"]
    assert page.locator(".entry .folder").all_text_contents() == ["Eye/left"] * 2
    expect(page.locator("#left-out")).to_have_text(
        "1 file left out: not scans by their names, or unreadable."
    )
    expect(page.locator("#count")).to_contain_text("3 results")
    page.get_by_role("button", name="broken.png").click()
    expect(page.locator("#failure-message")).to_have_text("Not a readable BMP, JPEG, PNG or TIFF image.")
    expect(page.locator("#failure-remedy")).to_have_text("Export the B-scan as JPEG or PNG.")
    page.locator(".entry").first.click()
    expect(page.locator("#file")).to_have_text(HOSTILE)
    assert page.locator("img[src=x]").count() == 0


def test_what_is_shown_is_what_the_server_says(page: Any, scans: list[Path], model_file: Path) -> None:
    add(page, scans[:1])
    (told,) = result_of("predict", "-m", model_file, scans[0])["predictions"]
    expect(page.locator("#verdict-why")).to_have_text(told["explanation"])
    shown = page.locator("#bars .digits").all_text_contents()
    assert shown == [f"{100 * told['probabilities'][label]:.1f} %" for label in LABELS]
    expect(page.locator("#set")).to_contain_text("holds no calibration")
    expect(page.locator("#live")).to_contain_text("b 2.png: ")
    sha = result_of("verify", model_file)["model"]["sha256"]
    expect(page.locator("#facts")).to_contain_text(sha)
    expect(page.locator("#model")).to_contain_text(sha[:12])


def test_a_busy_server_is_asked_again_when_it_says(browser: Any, url: str, scans: list[Path]) -> None:
    with visit(browser, url) as page:
        page.clock.install()
        ready(page)
        busy = {"code": "busy", "file": None, "message": "the queue is full", "remedy": "later"}
        page.route(
            "**/api/predict*",
            lambda route: route.fulfill(status=429, headers={"Retry-After": "60"}, json={"error": busy}),
            times=1,
        )
        page.set_input_files("#files", [scans[0]])
        expect(page.locator("#progress-text")).to_contain_text("Trying again in 60 s")
        page.clock.run_for(59_000)
        expect(page.locator("#progress-text")).to_contain_text("Trying again in 60 s")
        page.clock.run_for(2_000)
        done(page, 1)
        expect(page.locator("#result")).to_be_visible()


def test_it_can_be_stopped_and_goes_on(page: Any, scans: list[Path]) -> None:
    page.route("**/api/predict*", lambda route: None, times=1)  # never answered
    page.set_input_files("#files", scans)
    expect(page.locator("#progress-text")).to_have_text("Reading 1 of 3")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#progress-text")).to_have_text("3 files not sent.")
    page.route("**/api/predict*", lambda route: route.abort(), times=1)  # the server is gone
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#progress-text")).to_contain_text("The server does not answer.")
    page.get_by_role("button", name="Continue").click()
    done(page, 3)
    expect(page.locator("#count")).to_contain_text("3 results")


def test_a_file_that_is_gone_keeps_no_other_waiting(page: Any, scans: list[Path], tmp_path: Path) -> None:
    gone = tmp_path / "gone.png"
    gone.write_bytes(scans[0].read_bytes())
    page.route("**/api/predict*", lambda route: (gone.unlink(), route.continue_()), times=1)
    drop(page, [scans[2], gone, scans[0]])
    done(page, 3)
    expect(page.locator("#count")).to_have_text(re.compile("^2 results .* 1 not read$"))
    page.get_by_role("button", name="gone.png").click()
    expect(page.locator("#failure-message")).to_have_text("The file can no longer be read.")


def test_a_file_over_the_limit_is_not_sent(page: Any, tmp_path: Path) -> None:
    (tmp_path / "vast.png").write_bytes(bytes(20_000_001))
    add(page, [tmp_path / "vast.png"])
    expect(page.locator("#failure-message")).to_have_text("The file is over the server's limit of 20 MB.")


# Keys, order, theme, leaving -----------------------------------------------------------------------------


def test_a_walk_with_the_keys_alone(page: Any, scans: list[Path]) -> None:
    answering(page, *(one(prediction("a.png", "DME", each)) for each in ("routine", "observation", "urgent")))
    add(page, scans)
    current = page.locator(".entry[aria-current] .name")
    expect(current).to_have_text("=1+1.png")
    for key, name in (("j", "b 2.png"), ("ArrowDown", "b 10.png"), ("j", "b 10.png"), ("k", "b 2.png")):
        page.keyboard.press(key)
        expect(current).to_have_text(name)
    page.keyboard.press("u")
    expect(page.locator(".entry .name")).to_have_text(["b 10.png", "=1+1.png", "b 2.png"])
    page.keyboard.press("4")
    expect(page.get_by_role("radio", name="NORMAL")).to_be_checked()
    page.keyboard.press("-")
    expect(page.locator("#opacity-value")).to_have_text("60 %")
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    page.keyboard.press("k")
    expect(current).to_have_text("b 2.png")  # not while a dialogue is open
    page.get_by_label("Use these keys").uncheck()
    page.keyboard.press("Escape")
    expect(page.locator("#keys")).to_be_hidden()
    page.keyboard.press("k")
    expect(current).to_have_text("b 2.png")  # switched off
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("() => document.activeElement.id || document.activeElement.className"))
    controls = {
        "theme",
        "help",
        "add-files",
        "add-folder",
        "sort",
        "entry",
        "csv",
        "print",
        "clear",
        "opacity",
    }
    assert controls | {"print-one"} <= reached


def test_clearing_is_asked_for_and_leaving_warned_of(page: Any, scans: list[Path]) -> None:
    add(page, scans[:1])
    page.on("dialog", lambda dialog: dialog.dismiss())
    page.locator("#clear").click()
    page.get_by_role("button", name="Keep").click()
    expect(page.locator(".entry")).to_have_count(1)
    with page.expect_event("dialog") as warned:
        page.close(run_before_unload=True)
    assert warned.value.type == "beforeunload"
    page.locator("#clear").click()
    page.locator("#ask-clear").get_by_role("button", name="Clear").click()
    expect(page.locator(".entry")).to_have_count(0)
    expect(page.locator("#empty")).to_be_visible()
    expect(page.locator("#choose-files")).to_be_focused()
    assert page.locator(".sheet").count() == 0


def test_the_colours_are_switched_and_kept(page: Any) -> None:
    def ground() -> Any:
        return page.evaluate("() => getComputedStyle(document.documentElement).backgroundColor")

    light = ground()
    for _ in range(2):
        page.keyboard.press("t")
    expect(page.locator("#theme-name")).to_have_text("Dark")
    dark = ground()
    assert dark != light
    page.reload()
    ready(page)
    assert ground() == dark


# Taking away ---------------------------------------------------------------------------------------------


def test_the_csv_is_that_of_predict_but_safe_in_a_spreadsheet(
    page: Any, scans: list[Path], model_file: Path, tmp_path: Path
) -> None:
    add(page, scans)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save CSV").click()
    assert download.value.suggested_filename == "octlet.csv"
    text = download.value.path().read_text()
    result_of("predict", "-m", model_file, "--csv", tmp_path / "p.csv", scans[2], scans[0], scans[1])
    header, *rows = list(csv.reader(io.StringIO(text)))
    expected_header, *expected = list(csv.reader((tmp_path / "p.csv").open()))
    assert header == expected_header == list(CSV_COLUMNS)
    assert [row[1:] for row in rows] == [row[1:] for row in expected]
    assert [row[0] for row in rows] == ["'=1+1.png", "b 2.png", "b 10.png"]


def test_the_report_has_a_page_for_each_scan(page: Any, scans: list[Path]) -> None:
    add(page, scans)
    for paper in ("A4", "Letter"):
        assert len(re.findall(rb"/Type /Page\b", page.pdf(format=paper))) == 3
    sheets = page.locator(".sheet")
    for number, name in enumerate(["=1+1.png", "b 2.png", "b 10.png"]):
        words = sheets.nth(number).text_content()
        for part in (name, NOTICE, "SHA-256", "holds no calibration", *LABELS):
            assert part in words
        assert sheets.nth(number).locator("canvas").count() == 1
    page.emulate_media(media="print")
    expect(page.locator(".bar")).to_be_hidden()
    expect(sheets.first).to_be_visible()


def test_a_result_is_printed_alone(page: Any, scans: list[Path]) -> None:
    page.add_init_script("window.print = () => { window.printed = document.querySelectorAll('.sheet h2') }")
    page.reload()
    ready(page)
    answering(page, one(REFUSED))
    add(page, scans)
    page.get_by_role("button", name="b 10.png").click()
    page.locator("#print").click()
    expect(page.locator(".sheet")).to_have_count(3)
    page.keyboard.press("Escape")
    page.evaluate("() => document.querySelector('#print-one').click()")
    expect(page.locator(".sheet")).to_have_count(1)
    words = page.locator(".sheet").text_content()
    assert words.index("Not an OCT scan") < words.index("Do not rely on it")
    assert page.locator(".sheet canvas").count() == 0


# The token -----------------------------------------------------------------------------------------------


def test_a_token_is_asked_for_once(browser: Any, model_file: Path, scans: list[Path]) -> None:
    token = "a-token-of-the-tests"  # noqa: S105
    with serving(model_file, token) as url, visit(browser, url) as page:
        field = page.get_by_label("Token", exact=True)
        field.fill("wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#token-wrong")).to_have_text("The server does not know this token.")
        field.fill(token)
        page.keyboard.press("Enter")
        ready(page)
        add(page, scans[:1])
        expect(page.locator("#result")).to_be_visible()
        assert token not in page.content()
        page.on("dialog", lambda dialog: dialog.accept())
        page.reload()
        ready(page)
