"""How soon the page of `octlet serve` is of use, in a headless Chromium; and the picture of it in the docs.

Each time the server has just started, the browser runs already, and its cache is empty. Usable: it takes
files, and shows which model answers. The scans of the picture are simulated.

    python benchmarks/page.py docs/results/page.csv src/octlet/models/oct4-pi5.octlet docs/img/page.png
"""

import io
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from octlet.core.bundle import open_bundle
from octlet.core.files import csv_of, write_text
from octlet.data.phantom import simulate
from octlet.serve.page import KINDS

STARTS = 7
READY = "html[data-ready=true]"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
EYE = ["NORMAL"] * 5 + ["DRUSEN"] * 2 + ["CNV"] * 4 + ["DRUSEN"] + ["NORMAL"] * 7  # slices of the picture


def main(out: Path, model: Path, picture: Path | None) -> None:
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as folder:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = driver.chromium.launch(executable_path=path, args=FLAGS)
        network = open_bundle(model).manifest.name
        rows = [{"network": network, **row} for row in measured(browser, model)]
        write_text(out, csv_of(rows))
        for row in rows:
            print(f"{row['network']:24} {row['what']:72} {row['value']:>7}  {row['wanted']}")
        if picture is not None:
            draw(browser, model, Path(folder), picture)


def row(what: str, value: float, wanted: str = "") -> dict[str, object]:
    return {"what": what, "value": float(f"{value:.3g}"), "wanted": wanted}


def measured(browser: Browser, model: Path) -> Iterator[dict[str, object]]:
    seconds = []
    for _ in range(STARTS):
        page = blank(browser)
        with server(model) as url:
            page.goto(url)
            expect(page.locator(READY)).to_be_attached()
            seconds.append(page.evaluate("() => performance.getEntriesByName('usable')[0].startTime / 1000"))
        page.context.close()
    yield row("seconds from the first request to the page usable", statistics.median(seconds), "< 1")
    yield row(f"the same, the slowest of {STARTS} starts", max(seconds), "< 1")
    page_files = (each for each in (files("octlet.serve") / "static").iterdir())
    sizes = (len(each.read_bytes()) for each in page_files if each.name.rpartition(".")[2] in KINDS)
    yield row("kilobytes of the page, all files", sum(sizes) / 1000, "< 100")


def blank(browser: Browser) -> Page:
    """Open an empty page, in a context that has nothing in its cache."""
    return browser.new_context(viewport={"width": 1440, "height": 900}, color_scheme="light").new_page()


@contextmanager
def server(model: Path) -> Iterator[str]:
    """Yield the URL of a server at its ready line."""
    words = ["serve", "-m", str(model), "--port", "0", "--threads", "1", "--json"]
    command = [sys.executable, "-m", "octlet", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        document = ""
        while not document.endswith("\n}\n"):
            document += process.stdout.readline()
        yield json.loads(document)["url"]
    finally:
        process.terminate()
        process.wait()


def draw(browser: Browser, model: Path, folder: Path, picture: Path) -> None:
    """Draw the page with a simulated eye and some scans."""
    slices = [phantom(label, seed) for seed, label in enumerate(EYE)]
    slices[0].save(folder / "left eye.tiff", save_all=True, append_images=slices[1:])
    for seed, label in enumerate(("NORMAL", "DME", "DRUSEN", "CNV")):
        phantom(label, 100 + seed).save(folder / f"scan {seed + 1}.png")
    with server(model) as url:
        page = blank(browser)
        page.goto(url)
        expect(page.locator(READY)).to_be_attached()
        page.set_input_files("#files", [folder / "left eye.tiff", *sorted(folder.glob("scan ?.png"))])
        expect(page.locator(".entry .name")).to_have_count(5)
        expect(page.locator("#progress")).to_be_hidden(timeout=120_000)
        page.mouse.move(0, 0)
        data = page.screenshot(animations="disabled", full_page=True)
        page.context.close()
    image = Image.open(io.BytesIO(data)).convert("RGB")
    rounded = image.point(lambda level: min((level + 2) // 4 * 4, 255))  # half the bytes, and nobody sees it
    rounded.save(picture, optimize=True)


def phantom(label: str, seed: int) -> Any:
    return Image.fromarray(simulate(label, np.random.default_rng(40 + seed), shape=(496, 768)).pixels)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None)
