"""A headless Chromium that drives the page of a real `octlet serve`, and holds it to what it promises."""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import PATIENCE, check, encoded
from easy import band
from PIL import Image

from octlet.core.labels import LABELS, NOTICE

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra 'browser'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]

expect = sync_api.expect
expect.set_options(timeout=1000 * PATIENCE)


@contextmanager
def chromium() -> Iterator[Any]:
    """Yield a running browser; skip where there is none."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def serving(model: Path, token: str = "") -> Iterator[str]:
    """Yield the URL of `octlet serve`, in a process of its own, that answers."""
    words = ["serve", "-m", str(model), "--port", "0", "--threads", "1", "--json"]
    environment = {key: value for key, value in os.environ.items() if key != "OCTLET_TOKEN"}
    process = subprocess.Popen(
        [sys.executable, "-m", "octlet", *words],
        env=environment | ({"OCTLET_TOKEN": token} if token else {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        document = ""
        while not document.endswith("\n}\n"):
            line = process.stdout.readline()
            assert line, "the server has ended"
            document += line
        yield json.loads(document)["url"]
    finally:
        process.terminate()
        process.wait(PATIENCE)


@contextmanager
def visit(browser: Any, url: str, **options: Any) -> Iterator[Any]:
    """Yield the page, open; afterwards nothing may have gone elsewhere, broken or been blocked."""
    context = browser.new_context(**options)
    page = context.new_page()
    requests: list[str] = []
    faults: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda line: faults.append(line.text) if line.type in ("error", "warning") else None)
    page.goto(url)
    yield page
    context.close()
    elsewhere = [each for each in requests if not each.startswith((f"{url}/", f"blob:{url}/", "data:"))]
    assert elsewhere == []
    # Chromium itself tells of every refused request; what the page does about it is what tests look at
    assert [fault for fault in faults if not fault.startswith("Failed to load resource")] == []


def ready(page: Any) -> Any:
    """Wait until the page knows its model."""
    expect(page.locator("html[data-ready=true]")).to_be_attached()
    return page


def banded(folder: Path, *names: str) -> list[Path]:
    """Write scans of one class after another, under these names, and return where."""
    rng = np.random.default_rng(3)
    paths = [folder / f"{name}.png" for name in names]
    for number, path in enumerate(paths):
        path.write_bytes(encoded(band(number, rng)))
    return paths


def add(page: Any, files: Sequence[Path]) -> None:
    """Choose files, and wait until each has a result or an error."""
    before = page.locator(".entry").count()
    page.set_input_files("#files", list(files))
    done(page, before + len(files))


def done(page: Any, count: int) -> None:
    """Wait until so many files are listed, and none waits."""
    expect(page.locator(".entry")).to_have_count(count)
    expect(page.locator("#progress")).to_be_hidden()


def drop(page: Any, paths: Sequence[Path]) -> None:
    """Drop files and folders as a person does: Chromium is told of a drag from outside."""
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": list(map(str, paths)), "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 300, "data": data})


def pixels(page: Any, selector: str) -> Image.Image:
    """Return a picture of an element as it is shown."""
    return Image.open(io.BytesIO(page.locator(selector).screenshot(animations="disabled"))).convert("RGB")


MAP = {
    "size": [64, 48],
    "box": [0, 10, 64, 40],
    "span": [0.5, 2.5],
    "full": 3.0,
    "evidence": {label: [[0, 60, 120], [60, 255, 180], [0, 0, 90]] for label in LABELS},
}


def prediction(file: str, label: str, urgency: str, share: float = 0.91, **more: Any) -> dict[str, Any]:
    """What the server says of a scan; with the rest of the probability on the other classes alike."""
    rest = round((1 - share) / 3, 6)
    return {
        "file": file,
        "label": label,
        "urgency": urgency,
        "probabilities": {each: share if each == label else rest for each in LABELS},
        "set": [label],
        "abstain": None,
        "explanation": f"{label}, as the test has it.",
        "quality": dict.fromkeys(("contrast", "saturated", "noise", "cut", "empty", "upright"), 0.5),
        "map": MAP,
        **more,
    }


def answering(page: Any, *answers: dict[str, Any]) -> None:
    """Answer requests for predictions with these documents in turn, and the last one from then on."""
    model = {"name": "made up", "sha256": "0" * 64, "schema": 1, "versions": {}, "engine": "onnxruntime"}
    left = list(answers)

    def answer(route: Any) -> None:
        document = left.pop(0) if len(left) > 1 else left[0]
        route.fulfill(json={"notice": NOTICE, "model": model, "errors": [], "eyes": [], **document})

    page.route("**/api/predict*", answer)


def one(each: dict[str, Any]) -> dict[str, Any]:
    """An answer with one prediction, held against the API's description first."""
    check("Prediction", each)
    return {"predictions": [each]}


REFUSED = prediction("a.png", "CNV", "unknown", abstain="not an OCT scan", explanation="Unlike any scan.")
DOUBT = prediction("a.png", "NORMAL", "urgent", 0.5, abstain="uncertain", set=["NORMAL", "CNV"])


def volume_answer() -> dict[str, Any]:
    """An answer with the four slices of a volume, whose third is urgent, each of a gray of its own."""
    said = [("NORMAL", "observation"), ("DRUSEN", "routine"), ("CNV", "urgent"), ("NORMAL", "observation")]
    slices = []
    for number, (label, urgency) in enumerate(said, start=1):
        png = base64.b64encode(encoded(np.full((48, 64), 50 * number, np.uint8))).decode()
        slices.append(prediction(f"v.tiff#{number}", label, urgency, scan=png))
    kept = ("label", "urgency", "probabilities", "abstain")
    eye = {key: slices[2][key] for key in kept} | {
        "files": ["v.tiff"],
        "eye": "L",
        "subject": None,
        "scans": 5,
        "refused": 1,
        "explanation": "Three neighbours agree.",
        "most_urgent": [each["file"] for each in slices],
    }
    check("Eye", eye)
    return {"predictions": slices, "eyes": [eye]}
