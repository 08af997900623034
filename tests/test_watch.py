"""What a watcher takes for complete, in which order it delivers, and what it makes of odd files."""

import io
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from watching import BLANK, NORMAL, ROUTINE, URGENT, World, scan

from octlet.core.image import MAX_BYTES
from octlet.core.labels import NOTICE
from octlet.watch import watcher as watcher_module
from octlet.watch.content import read_content
from octlet.watch.faults import BlockedError
from octlet.watch.folder import look
from octlet.watch.watcher import ROUND, Settings


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


# Complete files ---------------------------------------------------------------------------------------------


def test_a_file_is_taken_when_it_rests(world: World) -> None:
    watcher = world.open()
    data = scan(URGENT)
    for size in (40, 80, len(data)):
        world.put("a.png", data[:size])
        watcher.sweep()
        world.now += 0.9
        watcher.sweep()
        assert not world.predictor.calls, "taken before it rested for a second"
    world.now += 0.2
    watcher.sweep()
    document = world.document("a.png")
    assert (document["notice"], document["model"]) == (NOTICE, world.predictor.identity)
    assert document["predictions"][0]["label"] == "CNV"
    assert document["watch"]["bytes"] == len(data)
    assert document["watch"]["predicted"] == "1970-01-12T13:46:42Z"


def test_a_server_whose_clock_is_wrong_changes_nothing(world: World) -> None:
    world.open()
    for name, wrong in (("past.png", 0), ("future.png", 4_000_000_000)):
        os.utime(world.put(name, scan(NORMAL)), (wrong, wrong))
    world.settle()
    assert len(world.predictor.calls) == 2


def test_what_is_left_out(world: World) -> None:
    for name in (".a.png", "~a.png", "a.png.part", "a.tmp", "a.txt", ".hidden/a.png", "sub/dir.png/x.txt"):
        world.put(name, scan(NORMAL))
    world.put("sub/A.PNG", scan(NORMAL))
    (world.folder / "link").symlink_to(world.folder / "sub")
    (world.folder / "gone.png").symlink_to(world.folder / "nowhere")
    os.mkfifo(world.folder / "pipe.png")
    suffixes = frozenset({".png"})
    assert list(look(world.folder, suffixes)) == ["sub/A.PNG"]
    assert list(look(world.folder, suffixes, subfolders=False)) == []


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_a_file_that_is_cut_short_is_waited_for(world: World, kind: str) -> None:
    watcher = world.open(kind)
    data = scan(ROUTINE)
    world.put("a.png", data[:60])
    world.put("b.png", data[:60])
    world.settle()
    assert (watcher.held, len(world.told("held")), watcher.journal.counts()["pending"]) == (2, 2, 2)
    world.put("a.png", data)
    world.settle()
    assert (watcher.held, len(world.told("delivered"))) == (1, 1)
    world.open(kind)  # the deadline is that of the first look, also after a restart
    world.now += world.settings.deadline
    world.settle()
    told = world.told("delivered")[1]
    assert (told["outcome"], "error" in told) == ("unreadable", True)
    world.put("b.png", data)
    world.settle()
    assert world.told("delivered")[2]["label"] == "DRUSEN"
    if kind == "csv":
        rows = world.rows()
        assert [(row["file"], row["label"], bool(row["error"])) for row in rows] == [
            ("a.png", "DRUSEN", False),
            ("b.png", "", True),
            ("b.png", "DRUSEN", False),
        ]
        assert {row["notice"] for row in rows} == {NOTICE}
    else:
        assert world.document("b.png")["errors"] == []


def test_a_copy_whose_space_was_reserved_is_not_taken(world: World) -> None:
    """Decoders show the part of a JPEG that is there, and gray below, without a word."""
    watcher = world.open()
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(buffer, "JPEG")
    whole = buffer.getvalue()
    world.put("a.jpeg", whole[:2000] + bytes(len(whole) - 2000))
    world.put("padded.jpeg", whole + bytes(600))
    world.settle()
    assert watcher.held == 1
    assert "zeros" in world.told("held")[0]["error"]
    world.put("a.jpeg", whole)
    world.settle()
    assert (watcher.held, len(world.told("delivered"))) == (0, 2)


def test_a_file_that_is_too_large_is_hashed_but_not_loaded(world: World) -> None:
    world.settings = Settings(settle=1.0, deadline=0.0)
    world.open()
    with (world.folder / "a.png").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    world.settle()
    assert "over the limit" in world.document("a.png")["errors"][0]["message"]


def test_a_file_that_changes_while_it_is_read_is_not_taken(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = world.put("a.png", scan(NORMAL))
    real = os.fstat

    def later(handle: int) -> Any:
        os.utime(path, ns=(0, real(handle).st_mtime_ns + 1000))
        return real(handle)

    monkeypatch.setattr(os, "fstat", later)
    assert read_content(path) is None
    assert read_content(path.with_name("gone.png")) is None


def test_a_volume_is_one_result_of_many_scans(world: World) -> None:
    watcher = world.open("csv")
    pages = [Image.open(io.BytesIO(scan(URGENT if 2 <= n <= 4 else NORMAL, n))) for n in range(7)]
    for name, chosen in (("v.tiff", pages), ("single.tiff", pages[:1])):
        buffer = io.BytesIO()
        chosen[0].save(buffer, "TIFF", save_all=True, append_images=chosen[1:])
        world.put(name, buffer.getvalue())
    world.settle()
    told = {each["file"]: each for each in world.told("delivered")}
    assert (told["v.tiff"]["outcome"], told["v.tiff"]["label"], told["v.tiff"]["scans"]) == (
        "urgent",
        "CNV",
        7,
    )
    assert "explanation" not in told["v.tiff"], "it holds the name"
    assert told["single.tiff"]["outcome"] == "observation"
    assert [row["file"] for row in world.rows()][:7] == [f"v.tiff#{n}" for n in range(1, 8)]
    assert len({row["id"] for row in world.rows()}) == 2
    document = watcher.journal._entries("outcome = 'urgent'")[0].result["document"]
    assert [eye["scans"] for eye in document["eyes"]] == [7]


# The same file again ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["json", "csv", "out"])
def test_contents_and_paths(world: World, kind: str) -> None:
    world.open(kind)
    one, two = scan(URGENT, 1), scan(ROUTINE, 2)
    for path, data in [("a.png", one), ("a.png", one), ("a.png", two), ("a.png", one), ("d/b.png", one)]:
        world.put(path, data)
        world.settle()
    assert world.predictor.calls == {("a.png", 0, 1): 1, ("a.png", 2, 2): 1, ("d/b.png", 0, 1): 1}
    assert [each["label"] for each in world.told("delivered")] == ["CNV", "DRUSEN", "CNV", "CNV"]
    if kind == "csv":
        assert [(row["file"], row["label"]) for row in world.rows()] == [
            ("a.png", "CNV"),
            ("a.png", "DRUSEN"),
            ("d/b.png", "CNV"),
        ]
    elif kind == "json":
        assert world.document("a.png")["predictions"][0]["label"] == "CNV"
    else:
        assert (world.root / "out" / "d" / "b.png.octlet.json").exists()
        assert not list(world.folder.rglob("*.json"))


def test_a_result_of_older_content_does_not_replace_a_newer_one(world: World) -> None:
    watcher = world.open()
    world.put("a.png", scan(URGENT))
    world.settle()
    old = watcher.journal._entries("id = 1")[0]
    world.put("a.png", scan(NORMAL))
    world.settle()
    assert watcher.sink.deliver(watcher.journal._entries("id = 1"))[0][0].id == old.id
    assert world.document("a.png")["predictions"][0]["label"] == "NORMAL"


def test_a_restart_finds_nothing_to_do(world: World) -> None:
    world.open()
    world.put("a.png", scan(NORMAL))
    world.settle()
    world.open()
    world.events.clear()
    world.settle()
    assert (world.events, set(world.predictor.calls.values())) == ([], {1})


def test_new_only_is_about_the_first_start(world: World) -> None:
    world.settings = Settings(settle=1.0, new_only=True)
    old = world.put("old.png", scan(NORMAL, 1))
    world.open()
    world.settle()
    assert world.told("left-out") == [{"event": "left-out", "files": 1}]
    world.close()
    world.put("while-away.png", scan(NORMAL, 2))
    world.open()
    world.put("new.png", scan(NORMAL, 3))
    world.settle()
    assert sorted(name for name, *_ in world.predictor.calls) == ["new.png", "while-away.png"]
    old.write_bytes(scan(URGENT, 4))
    world.settle()
    assert ("old.png", URGENT, 4) in world.predictor.calls


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes are Linux's")
def test_odd_names(world: World) -> None:
    names = ["=a b'\".png", "line\nend.png", "\udcff.png", f"{'n' * 240}.png", "ü.png"]
    for kind in ("json", "csv"):
        world.root = world.root / kind
        world.folder.mkdir(parents=True)
        world.open(kind)
        for number, name in enumerate(names):
            world.put(name, scan(NORMAL, number))
        world.settle()
        assert Counter(each["event"] for each in world.events)["delivered"] == len(names)
        world.open(kind).sweep()
        if kind == "json":
            assert len(list(world.folder.glob("*.octlet.json"))) == len(names)
        else:
            shown = {name.replace("\n", "\ufffd").replace("\udcff", "\ufffd") for name in names}
            assert {row["file"] for row in world.rows()} == shown
        world.events.clear()


# Order ------------------------------------------------------------------------------------------------------


def test_urgent_scans_come_first(world: World) -> None:
    for number in range(ROUND + 9):
        world.put(f"{number:02}.png", scan(URGENT if number in (5, 20, 35) else NORMAL, number))
    watcher = world.open()
    watcher.sweep()
    world.now += 1
    assert watcher.sweep(), "a round has an end, and there is more"
    files = [each["file"] for each in world.told("delivered")]
    assert files[:2] == ["05.png", "20.png"]
    assert files[2:] == sorted(files[2:])
    assert len(files) == ROUND
    assert not watcher.sweep()
    assert [each["file"] for each in world.told("delivered")][ROUND] == "35.png"


def test_an_urgent_scan_is_delivered_before_the_next_is_predicted(world: World) -> None:
    for number, kind in enumerate([NORMAL, URGENT, NORMAL]):
        world.put(f"{number}.png", scan(kind, number))
    watcher = world.open()
    log: list[str] = []
    real = world.predictor.predict
    watcher.predictor.predict = lambda grays, names: (log.extend(names), real(grays, names))[1]  # type: ignore[method-assign, func-returns-value]
    watcher.tell = lambda event: log.append(f"{event['event']} {event['file']}")
    world.settle()
    assert log == ["0.png", "1.png", "delivered 1.png", "2.png", "delivered 0.png", "delivered 2.png"]


def test_what_arrives_goes_before_what_was_there(world: World) -> None:
    for number in range(2 * ROUND):
        world.put(f"a{number:02}.png", scan(NORMAL, number))
    watcher = world.open()
    watcher.sweep()
    world.now += 1
    watcher.sweep()
    world.put("z.png", scan(NORMAL, 999))
    watcher.sweep()
    world.now += 1
    watcher.sweep()
    names = [name for name, *_ in world.predictor.calls]
    assert names[ROUND : ROUND + 2] == [f"a{ROUND}.png", f"a{ROUND + 1}.png"]
    assert "z.png" in names


def test_a_refused_scan_is_told_as_one(world: World) -> None:
    watcher = world.open("csv")
    world.put("a.png", scan(BLANK))
    world.settle()
    told = world.told("delivered")[0]
    assert (told["outcome"], told["abstain"]) == ("unknown", "poor quality")
    assert watcher.counts == {"unknown": 1}
    assert world.rows()[0]["abstain"] == "poor quality"


# What stands in the way -------------------------------------------------------------------------------------


def test_a_file_that_cannot_be_read_keeps_nobody_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = watcher_module.read_content
    locked = {f"a{number}.png" for number in range(ROUND + 1)}

    def read(file: Path) -> Any:
        if file.name in locked:
            raise BlockedError("a scan cannot be used now: Permission denied", path=file)
        return real(file)

    monkeypatch.setattr(watcher_module, "read_content", read)
    for name in (*locked, "z.png"):
        world.put(name, scan(NORMAL, len(name)))
    watcher = world.open()
    world.settle()
    assert [name for name, *_ in world.predictor.calls] == ["z.png"]
    assert len(watcher.faults) == len(locked)
    locked.clear()
    watcher.sweep()
    assert (len(world.predictor.calls), watcher.faults) == (ROUND + 2, [])


def test_a_share_that_is_gone_is_no_deletion(world: World) -> None:
    watcher = world.open()
    world.put("a.png", scan(URGENT))
    world.put("cut.png", scan(URGENT)[:60])
    watcher.sweep()
    world.now += 1
    (world.folder / "a.png.octlet.json").mkdir()  # nothing can be written there
    watcher.sweep()
    assert (watcher.journal.counts()["undelivered"], len(watcher.faults)) == (1, 1)
    away = world.folder.rename(world.root / "away")
    with pytest.raises(BlockedError, match="the folder of scans"):
        watcher.sweep()
    world.folder.mkdir()  # the empty folder that a share is mounted on
    watcher.sweep()
    counts = watcher.journal.counts()
    assert (counts["undelivered"], counts["pending"], list(world.folder.iterdir())) == (1, 0, [])
    world.folder.rmdir()
    away.rename(world.folder)
    (world.folder / "a.png.octlet.json").rmdir()
    world.settle()
    assert world.document("a.png")["predictions"][0]["label"] == "CNV"
    assert world.predictor.calls["a.png", URGENT, 0] == 1
    assert watcher.held == 1
