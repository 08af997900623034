"""The journal as a file that others may hold or have damaged, and tables that others have touched."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from watching import NORMAL, World, scan

from octlet.core.errors import OctletError, UsageError
from octlet.watch.deliver import COLUMNS, CsvFile, JsonFiles
from octlet.watch.journal import Journal


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def test_one_watcher_for_a_journal(world: World, tmp_path: Path) -> None:
    watcher = world.open()
    path = watcher.journal.path
    with pytest.raises(UsageError, match="another 'octlet watch'"):
        Journal(path, world.folder)
    world.close()
    with pytest.raises(UsageError, match="another folder"):
        Journal(path, tmp_path)
    other = sqlite3.connect(path)
    other.execute("UPDATE fact SET value = 2 WHERE name = 'schema'")
    other.commit()
    other.close()
    with pytest.raises(UsageError, match="schema 2"):
        Journal(path, world.folder)
    path.write_bytes(b"no journal at all" * 99)
    with pytest.raises(OctletError, match="damaged"):
        Journal(path, world.folder)
    with pytest.raises(UsageError, match="cannot be made"):
        Journal(path / "x", world.folder)


def test_a_journal_is_for_its_owner_alone(world: World) -> None:
    assert world.open().journal.path.stat().st_mode & 0o077 == 0


# Rows -------------------------------------------------------------------------------------------------------


def test_a_table_that_others_have_touched(world: World) -> None:
    header = ",".join(COLUMNS)
    world.open("csv")
    world.put("a.png", scan(NORMAL, 1))
    world.settle()
    text = world.csv.read_text()
    assert text.splitlines()[0] == header
    world.csv.write_text(text.rstrip("\n"))  # an editor that leaves out the last line end
    world.put("b.png", scan(NORMAL, 2))
    world.settle()
    assert [row["file"] for row in world.rows()] == ["a.png", "b.png"]
    world.csv.unlink()  # taken away to be worked on
    world.put("c.png", scan(NORMAL, 3))
    world.settle()
    assert [row["file"] for row in world.rows()] == ["c.png"]
    world.csv.write_bytes(world.csv.read_bytes().replace(b"\n", b"\r\n"))  # a spreadsheet
    world.open("csv")
    world.put("d.png", scan(NORMAL, 4))
    world.settle()
    assert [row["file"] for row in world.rows()] == ["c.png", "d.png"]


def test_tables_and_folders_that_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("file,label\n")
    (tmp_path / "folder.csv").mkdir()
    for path, rule in (
        (other, "columns"),
        (tmp_path / "a.txt", r"\.csv"),
        (tmp_path / "folder.csv", r"\.csv"),
    ):
        with pytest.raises(UsageError, match=rule):
            CsvFile(path)
    with pytest.raises(UsageError, match="nothing can be written"):
        JsonFiles(tmp_path, other / "below")
