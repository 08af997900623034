"""octlet.data.index: fingerprints, round trips, and the same bytes from the same scans."""

import hashlib
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from octlet.core.errors import InputError
from octlet.core.labels import LABELS
from octlet.data import index
from octlet.data.cache import prepared_scans
from octlet.data.index import Record, Unfit, Unreadable, build_index, dhash, read_index, write_index
from octlet.data.phantom import simulate
from octlet.data.source import Item, Source, open_source

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
HEX = st.binary(min_size=32, max_size=32).map(bytes.hex)
SIDE = st.integers(1, 10**6)
RECORD = st.builds(
    Record,
    TEXT,
    st.sampled_from(LABELS),
    TEXT,
    st.sampled_from(["", "train", "val", "test"]),
    SIDE,
    SIDE,
    HEX,
    HEX,
)


def write_scans(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for number, label in enumerate(LABELS * 2):
        path = folder / label / f"{label}-{number}-1.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32 + number, 48), dtype=np.uint8)).save(path)


def test_dhash_tells_which_neighbour_is_brighter() -> None:
    ramp = np.tile(np.arange(0, 255, 5, dtype=np.uint8), (48, 1))
    assert dhash(ramp) == "f" * 64
    assert dhash(ramp[:, ::-1].copy()) == "0" * 64
    half = np.concatenate([ramp[:24], ramp[24:, ::-1]])
    assert dhash(half) == "f" * 32 + "0" * 32  # the upper rows come first


def test_dhash_agrees_with_a_plain_loop() -> None:
    small = np.random.default_rng(1).integers(0, 256, (16, 17), dtype=np.uint8)  # of the hash's own size
    bits = "".join("1" if small[y, x + 1] > small[y, x] else "0" for y in range(16) for x in range(16))
    assert dhash(small) == f"{int(bits, 2):064x}"


def test_dhash_hardly_changes_with_size_and_brightness() -> None:
    rng = np.random.default_rng(2)
    coarse = Image.fromarray(rng.integers(0, 180, (12, 12), dtype=np.uint8))
    image = coarse.resize((512, 496), Image.Resampling.BICUBIC)
    variants = [image.resize((256, 200), Image.Resampling.BICUBIC), image.point(lambda v: min(255, v + 40))]
    for variant in variants:
        changed = int(dhash(np.asarray(image)), 16) ^ int(dhash(np.asarray(variant)), 16)
        assert changed.bit_count() <= 8


def test_an_index_measures_every_scan(tmp_path: Path) -> None:
    write_scans(tmp_path)
    counted: list[int] = []

    def counting(numbers: Iterable[int]) -> Iterator[int]:
        for number in numbers:
            counted.append(number)
            yield number

    records, unreadable, _ = build_index(open_source(tmp_path), counting)
    assert unreadable == []
    assert counted == list(range(8))
    assert [record.path for record in records] == sorted(record.path for record in records)
    record = next(record for record in records if record.patient == "5")
    assert (record.label, record.width, record.height) == ("DME", 48, 37)
    data = (tmp_path / record.path).read_bytes()
    assert record.sha256 == hashlib.sha256(data).hexdigest()


def test_scans_that_nobody_could_judge_are_told_and_indexed(tmp_path: Path) -> None:
    (tmp_path / "CNV").mkdir()
    scan = simulate("CNV", np.random.default_rng(0)).pixels
    for number, pixels in enumerate((scan, scan[::-1], np.full_like(scan, 20))):
        Image.fromarray(pixels).save(tmp_path / "CNV" / f"CNV-1-{number}.png")
    records, _, unfit = build_index(open_source(tmp_path))
    assert len(records) == 3
    assert [entry.path for entry in unfit] == ["CNV/CNV-1-1.png", "CNV/CNV-1-2.png"]
    assert unfit[0] == Unfit("CNV/CNV-1-1.png", "CNV", "The scan seems to lie upside down. Turn it round.")
    assert "blank" in unfit[1].reason


def test_a_stop_does_not_wait_for_what_is_queued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, going_on = [], threading.Event()

    def slow(_root: Path, item: Item) -> tuple[Unreadable, None]:
        started.append(item)
        going_on.wait(60)
        return Unreadable(item.path, "CNV", "1", "", "never read"), None

    def stop(_numbers: Iterable[int]) -> Iterator[int]:
        raise KeyboardInterrupt
        yield

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            going_on.set()
            super().shutdown()

    monkeypatch.setattr(index, "_measure", slow)
    monkeypatch.setattr(index, "ThreadPoolExecutor", Pool)
    items = tuple(Item(f"{k}.png", "CNV", "1", "") for k in range(500))
    with pytest.raises(KeyboardInterrupt):
        build_index(Source(tmp_path, items), stop)
    assert len(started) <= (os.cpu_count() or 1)


def test_npz_scans_are_known_by_their_pixels(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", test_images=images, test_labels=np.array([0, 1, 3]))
    records, *_ = build_index(open_source(tmp_path / "a.npz"))
    assert [r.sha256 for r in records] == [hashlib.sha256(image.tobytes()).hexdigest() for image in images]


def test_unreadable_scans_do_not_stop_the_rest(tmp_path: Path) -> None:
    write_scans(tmp_path)
    (tmp_path / "CNV/CNV-70-1.png").write_bytes(b"")
    (tmp_path / "CNV/CNV-71-1.png").write_bytes((tmp_path / "CNV/CNV-0-1.png").read_bytes()[:300])
    records, unreadable, _ = build_index(open_source(tmp_path))
    assert len(records) == 8
    assert [(entry.path, entry.patient) for entry in unreadable] == [
        ("CNV/CNV-70-1.png", "70"),
        ("CNV/CNV-71-1.png", "71"),
    ]
    assert "empty" in unreadable[0].reason


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names themselves")
def test_a_name_that_is_no_utf8_is_told_not_fatal(tmp_path: Path) -> None:
    write_scans(tmp_path)
    bad = os.fsencode(tmp_path / "CNV") + b"/caf\xe9.png"
    os.link(tmp_path / "CNV/CNV-0-1.png", bad)
    records, unreadable, _ = build_index(open_source(tmp_path))
    assert len(records) == 8
    assert unreadable[0].path == "CNV/caf\\udce9.png"


@given(st.lists(RECORD, min_size=1, max_size=4, unique_by=lambda record: record.path))
def test_any_record_comes_back(tmp_path_factory: pytest.TempPathFactory, records: list[Record]) -> None:
    file = tmp_path_factory.getbasetemp() / "index.csv"
    write_index(file, records)
    assert read_index(file) == sorted(records, key=lambda record: record.path)


def test_the_same_scans_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    write_scans(tmp_path)
    source = open_source(tmp_path)
    shuffled = Source(source.root, source.items[::-1])
    for name, listed in (("a.csv", source), ("b.csv", shuffled)):
        write_index(tmp_path / name, build_index(listed)[0])
    text = (tmp_path / "a.csv").read_bytes()
    assert text == (tmp_path / "b.csv").read_bytes()
    assert text.startswith(
        b"path,label,patient,split,width,height,sha256,dhash\nCNV/CNV-0-1.png,CNV,0,,48,32,"
    )
    assert b"\r" not in text


@pytest.mark.parametrize(
    ("column", "value", "rule"),
    [
        ("label", "AMD", "label 'AMD' is not one of"),
        ("width", "-1", "width '-1' is not a number"),
        ("height", "0", "height '0'"),
        ("height", "\u0661", "height"),
        ("sha256", "ab", "sha256 'ab'"),
        ("dhash", "G" * 64, "dhash"),
        ("split", "quarantine", "split 'quarantine'"),
        ("patient", "", "patient ''"),
    ],
)
def test_a_wrong_row_is_refused(tmp_path: Path, column: str, value: str, rule: str) -> None:
    good = Record("a.png", "CNV", "1", "", 5, 5, "0" * 64, "0" * 64)
    cells = {name: str(getattr(good, name)) for name in good.__dataclass_fields__} | {column: value}
    file = tmp_path / "index.csv"
    file.write_text(",".join(cells) + "\n" + ",".join(cells.values()) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=f"row 1: {rule}"):
        read_index(file)


def test_an_empty_index_and_a_path_twice_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "index.csv"
    write_index(file, [])
    with pytest.raises(InputError, match="holds no scan"):
        read_index(file)
    record = Record("a.png", "CNV", "1", "", 5, 5, "0" * 64, "0" * 64)
    write_index(file, [record, record])
    with pytest.raises(InputError, match=r"'a.png' stands twice"):
        read_index(file)


def test_an_item_is_read_relative_to_the_root(tmp_path: Path) -> None:
    write_scans(tmp_path)
    source = Source(tmp_path / "CNV", (Item("CNV-0-1.png", "CNV", "0", ""),))
    assert [record.path for record in build_index(source)[0]] == ["CNV-0-1.png"]


def test_a_scan_that_was_edited_since_it_was_indexed_is_not_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pixels would be kept under the hash of the old ones."""
    monkeypatch.setenv("OCTLET_CACHE", str(tmp_path / "cache"))
    image = tmp_path / "a.png"
    Image.fromarray(np.full((64, 64), 90, np.uint8)).save(image)
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    assert prepared_scans(tmp_path, [("a.png", digest)], 32).shape == (1, 32, 32)
    Image.fromarray(np.full((64, 64), 91, np.uint8)).save(image)
    with pytest.raises(InputError, match=r"a.png: the scan is another than when it was indexed"):
        prepared_scans(tmp_path, [("a.png", digest)], 48)
    assert [each.name for each in (tmp_path / "cache").iterdir() if "-48-" in each.name] == []
