"""`octlet report`: what stands on a page, in which order, and that it is one sheet of paper."""

import base64
import dataclasses
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from octlet.cli.main import main
from octlet.clinical.eye import JudgedVolume, eye_of
from octlet.core.labels import LABELS, NOTICE
from octlet.core.prediction import NOT_OCT, POOR, UNCERTAIN, Prediction
from octlet.core.quality import Quality, measure
from octlet.data.phantom import simulate
from octlet.report.eye import SHOWN, Eye, Seen, pressing
from octlet.report.facts import Facts, figures
from octlet.report.page import page
from octlet.report.picture import heat_png, scan_png
from octlet.runtime.predictor import Grid

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "<script>alert('x')</script>&\"é" * 9
FACTS = Facts(
    name="small",
    sha256="5" * 64,
    engine="onnxruntime",
    grid=Grid(64),
    coverage=0.95,
    fitted=577,
    data="505 scans of 343 patients",
    figures=tuple((f"figure {n}", "0.911 (0.886 to 0.934)") for n in range(12)),
)
GRAY = simulate("DME", np.random.default_rng(4), shape=(496, 512)).pixels


def seen(name: str = "a.png", kind: int = 1, share: float = 0.91, **changed: Any) -> Seen:
    """A B-scan of a class, with a map whose class was seen in the upper left."""
    rest = (1 - share) / 3
    shares = np.where(np.arange(4) == kind, share, rest)
    prediction = Prediction.of(name, shares, measure(GRAY))
    cam = np.zeros((4, 4, 4), np.float32)
    cam[:, 0, 0] = 8
    return Seen(dataclasses.replace(prediction, **changed), GRAY, cam, (0, 0, 512, 496))


def volume(name: str, *scans: Seen, eye: str | None = "R") -> Eye:
    judged = JudgedVolume(name, eye, "0123456789abcdef", tuple(each.prediction for each in scans), 1)
    return Eye(name, pressing(scans), eye_of([judged]))


class Words(HTMLParser):
    """The text of a page in its order, and its tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        if "body" in self.tags:
            self.words.append(data)


def text_of(eye: Eye, facts: Facts = FACTS, **named: str) -> str:
    return Words(page(eye, facts, **named)).text


def test_a_page_of_one_scan() -> None:
    scan = seen(set=("DME",), explanation="It is DME.")
    html = page(Eye("a.png", (scan,)), FACTS, title="Left & right", date="2026-11-23")
    words = Words(html)
    assert words.text.count(NOTICE) == 2
    assert words.text.strip().startswith(NOTICE)
    for part in ("Left & right", "a.png · report of 2026-11-23", "DME, diabetic macular edema", "It is DME.",
                 "Urgency: urgent", "Calibrated probabilities", "91.0 %", "3.0 %", "DME is in the 95 % set",
                 "CNV, DRUSEN and NORMAL can be ruled out", "Good enough to be judged.", "5" * 64,
                 "Trained on 505 scans of 343 patients. Calibrated on 577 held-out scans",
                 "0.911 (0.886 to 0.934)"):  # fmt: skip
        assert part in words.text, part
    assert words.tags.count("img") == 2
    assert all(source.startswith("data:image/png;base64,") for source in words.sources)
    assert not {"script", "link", "iframe", "form"} & set(words.tags)
    assert "default-src 'none'" in html
    assert "http:" not in html
    assert "https:" not in html


def test_without_a_date_the_same_is_the_same() -> None:
    eye = Eye("a.png", (seen(set=("DME",)),))
    assert page(eye, FACTS) == page(eye, FACTS)
    assert "report of" not in page(eye, FACTS)


@pytest.mark.parametrize("reason", [NOT_OCT, POOR])
def test_a_refusal_comes_first_and_no_map_is_shown(reason: str) -> None:
    scan = seen(abstain=reason, urgency="unknown", set=("DME",), explanation="Because of that.")
    text = text_of(Eye("a.png", (scan,)))
    assert text.index(f"Refused: {reason}") < text.index("Because of that.") < text.index("DME")
    assert "Computed before the refusal, for the record only" in text
    assert "Calibrated probabilities" not in text
    assert "diabetic macular edema" not in text[: text.index("Computed")]
    html = page(Eye("a.png", (scan,)), FACTS)
    assert Words(html).tags.count("img") == 1
    assert 'class="verdict unknown"' in html


def test_doubt_is_told_with_every_class_that_is_left() -> None:
    scan = seen(kind=2, abstain=UNCERTAIN, urgency="urgent", set=("DRUSEN", "CNV"))
    text = text_of(Eye("a.png", (scan,)))
    assert "Uncertain: DRUSEN or CNV" in text
    assert "DRUSEN and CNV are in the 95 % set" in text
    assert "DME and NORMAL can be ruled out" in text


def test_a_model_that_was_never_calibrated_says_so() -> None:
    bare = dataclasses.replace(FACTS, coverage=None, fitted=None, data="", figures=())
    text = text_of(Eye("a.png", (seen(),)), bare)
    assert "Probabilities, not calibrated" in text
    assert "never calibrated" in text
    assert "tells nothing of its performance" in text


def test_bars_are_as_long_as_their_numbers_and_hollow_outside_the_set() -> None:
    html = page(Eye("a.png", (seen(set=("DME",)),)), FACTS)
    bars = re.findall(r'V9H0Z" fill="(#\w+)"', html), re.findall(r"M0 1H([\d.]+)V9H0Z", html)
    assert [float(width) for width in bars[1]] == [3.0, 91.0, 3.0, 3.0]
    assert [fill == "#0072b2" for fill in bars[0]] == [False, True, False, False]


def test_a_volume_shows_the_most_pressing_scans() -> None:
    scans = [seen(f"v#{n}", kind=0 if 3 <= n <= 5 else 3, share=0.8 + n / 100) for n in range(1, 13)]
    eye = volume("v", *scans)
    assert [each.prediction.file for each in eye.seen] == ["v#5", "v#4", "v#3", "v#1", "v#2", "v#6"]
    text = text_of(eye)
    for part in ("right eye", "subject 0123456789abcdef", "13 B-scans, 1 of them refused", "CNV, choroidal",
                 "The most pressing B-scan, v#5: CNV 85 %", "v#4: CNV 84 %",
                 "Means over the neighbouring"):  # fmt: skip
        assert part in text, part
    assert Words(page(eye, FACTS)).tags.count("img") == 1 + SHOWN


def test_an_eye_whose_scans_were_all_refused() -> None:
    scans = [seen(f"v#{n}", abstain=POOR, urgency="unknown") for n in range(3)]
    text = text_of(volume("v", *scans))
    assert "Refused: poor quality" in text
    assert "No class is given" in text


def test_pressing_keeps_scans_of_one_name_apart() -> None:
    assert len(pressing([seen("same")], [seen("same"), seen("same", kind=3)])) == 3


def test_figures_of_a_model_file() -> None:
    metrics = {
        "n": 722,
        "accuracy": {"value": 0.91111, "low": 0.886, "high": 0.934},
        "val_accuracy": 0.5,
        "per_class": {"CNV": {"sensitivity": {"value": 1, "low": 0.9, "high": 1.0}}},
        "odd": [1, 2],
        "flag": True,
        "text": "x",
        "broken": {"value": "a", "low": 0, "high": 1},
        "cross_validation": {"scans": 9, "sensitivity": {"DME": {"value": 0.5, "low": 0, "high": 1}}},
    }
    assert list(figures(metrics)) == [
        ("n", "722"),
        ("accuracy", "0.911 (0.886 to 0.934)"),
        ("accuracy, validation", "0.500"),
        ("per class CNV sensitivity", "1.000 (0.900 to 1.000)"),
        ("scans, in folds", "9"),
        ("sensitivity DME, in folds", "0.500 (0.000 to 1.000)"),
    ]


# Pictures ---------------------------------------------------------------------------------------------------


def pixels_of(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_pictures_are_no_larger_than_a_page_needs() -> None:
    wide = np.zeros((500, 3000), np.uint8)
    assert pixels_of(scan_png(wide)).shape == (167, 1000)
    assert (pixels_of(scan_png(GRAY)) == GRAY).all()


def test_a_line_encloses_what_has_half_of_the_strength() -> None:
    gray = np.full((256, 256), 100, np.uint8)
    cam = np.zeros((4, 4, 4), np.float32)
    cam[1, 1, 1] = 8
    pixels = pixels_of(heat_png(gray, cam, Grid(64), (0, 0, 256, 256), "DME")).astype(int)
    white = (pixels == 255).all(axis=2)
    assert white.any()
    rows, columns = np.nonzero(white)
    centre = 64 + 2  # cell 1 is centred on pixel 16 of 64, four times as large here
    assert abs(rows.mean() - centre) < 3
    assert abs(columns.mean() - centre) < 3
    assert (pixels[200:, 200:] == 100).all(), "nothing is drawn where nothing was seen"
    grays = pixels.mean(axis=2)
    assert grays.max() - grays.min() == 255, "seen in black and white, too"
    assert not (pixels_of(heat_png(gray, cam, Grid(64), (0, 0, 256, 256), "CNV")) == 255).any()


# Paper ------------------------------------------------------------------------------------------------------


def browser(*args: object) -> "subprocess.CompletedProcess[bytes]":
    assert CHROMIUM
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", *map(str, args)]
    return subprocess.run(command, capture_output=True, check=True, timeout=120)


LONG = [
    seen(f"{HOSTILE}#{n}", set=("CNV", "DME", "DRUSEN", "NORMAL"), explanation=HOSTILE * 3) for n in range(9)
]
PAGES = {
    "one": Eye("a.png", (seen(set=("DME",)),)),
    "hostile": Eye(HOSTILE, (seen(HOSTILE, set=("DME", "CNV", "NORMAL"), explanation=HOSTILE * 3),)),
    "volume": volume(HOSTILE, *LONG),
}


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_page_is_one_sheet_on_which_nothing_is_cut_off(tmp_path: Path) -> None:
    measured = "<script>document.title = [document.querySelector('main').scrollHeight, "
    measured += "document.querySelector('main').clientHeight, document.images.length]</script></body>"
    for name, eye in PAGES.items():
        html = page(eye, FACTS, title=HOSTILE, date="2026-11-23")
        place = tmp_path / f"{name}.html"
        place.write_text(html, encoding="utf-8")
        pdf = tmp_path / f"{name}.pdf"
        browser("--no-pdf-header-footer", f"--print-to-pdf={pdf}", place.as_uri())
        assert len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes())) == 1, name
        assert re.search(rb"/MediaBox\s*\[0 0 59[45][.\d]* 84[12][.\d]*\]", pdf.read_bytes()), "A4"
        without = re.sub(r"<meta http-equiv.*?>", "", html, flags=re.DOTALL)
        place.write_text(without.replace("</body>", measured), encoding="utf-8")
        dumped = browser("--window-size=1000,1300", "--dump-dom", place.as_uri()).stdout.decode()
        needed, there, images = map(int, re.search(r"<title>([\d,]+)</title>", dumped)[1].split(","))  # type: ignore[index]
        assert needed <= there, f"{name}: {needed} pixels, {there} of them shown"
        assert images == html.count("<img")


def test_nothing_from_outside_is_markup() -> None:
    for eye in PAGES.values():
        facts = dataclasses.replace(
            FACTS, name=HOSTILE, engine=HOSTILE, data=HOSTILE, figures=((HOSTILE, HOSTILE),)
        )
        words = Words(page(eye, facts, title=HOSTILE, date=HOSTILE))
        assert "script" not in words.tags
        assert "alert('x')" in words.text


# The verb ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scans") / "Erika Mustermann"
    rng = np.random.default_rng(0)
    for n, place in enumerate(("right", "right", "left")):
        (root / place).mkdir(parents=True, exist_ok=True)
        Image.fromarray(simulate(LABELS[n], rng, shape=(496, 512)).pixels).save(root / place / f"s{n}.png")
    (root / "left" / "cut.png").write_bytes(b"nothing")
    return root


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = main([str(arg) for arg in args])
    return code, *capsys.readouterr()


def test_the_verb(model_file: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pages"
    code, printed, err = run(capsys, "report", "-m", model_file, scans, "--out", out)
    assert (code, sorted(each.name for each in out.iterdir())) == (3, ["s0.html", "s1.html", "s2.html"])
    assert printed.splitlines()[-1] == NOTICE
    assert "cut.png" in err
    for file in out.iterdir():
        text = Words(file.read_text(encoding="utf-8")).text
        assert text.count(NOTICE) == 2
        assert "Erika" not in text, "a folder may carry a patient's name"
        assert "tiny" in text
    first = {file.name: file.read_bytes() for file in out.iterdir()}
    run(capsys, "report", "-m", model_file, scans, "--out", out)
    assert first == {file.name: file.read_bytes() for file in out.iterdir()}


def test_folders_as_eyes(
    model_file: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "stack").mkdir()
    images = [
        Image.fromarray(simulate("DME", np.random.default_rng(n), shape=(496, 512)).pixels) for n in range(4)
    ]
    stack = tmp_path / "stack" / "volume.tiff"
    images[0].save(stack, save_all=True, append_images=images[1:])
    words = ("--by-folder", "--date", "today", "--json")
    code, printed, _ = run(
        capsys, "report", "-m", model_file, scans / "right", stack, "--out", tmp_path, *words
    )
    assert code == 0
    assert re.findall(r'"eye": "([^"]*)"', printed) == ["volume.tiff", "right"]
    text = Words((tmp_path / "right.html").read_text(encoding="utf-8")).text
    assert "2 B-scans" in text
    assert re.search(r"report of 20\d\d-\d\d-\d\d", text)
    text = Words((tmp_path / "volume.html").read_text(encoding="utf-8")).text
    assert "4 B-scans" in text
    assert "volume.tiff#" in text


@pytest.mark.parametrize(
    ("words", "code"),
    [(["--date", "yesterday"], 2), (["--out", "FILE"], 2), (["-m", "nothing.octlet"], 4)],
)
def test_what_is_refused(
    model_file: Path,
    scans: Path,
    tmp_path: Path,
    words: list[str],
    code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "FILE").touch()
    told = [str(tmp_path / "FILE") if word == "FILE" else word for word in words]
    whole = ["report", "-m", model_file, scans / "right" / "s0.png", "--out", tmp_path / "x", *told]
    assert run(capsys, *whole)[0] == code
    assert not (tmp_path / "x").exists()


def test_pictures_on_the_page_are_those_of_the_scan() -> None:
    html = page(Eye("a.png", (seen(set=("DME",)),)), FACTS)
    first = re.search(r"base64,([^\"]+)", html)
    assert first is not None
    assert (pixels_of(base64.b64decode(first[1])) == GRAY).all()
    assert isinstance(seen().prediction.quality, Quality)
