"""octlet.data.duplicates: the fast search against all pairs, the components against scipy."""

import io
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from octlet.data import duplicates
from octlet.data.duplicates import (
    RADIUS,
    candidates,
    close_pairs,
    components,
    exact_duplicates,
    near_duplicates,
    thumbnail,
)
from octlet.data.index import Record, build_index
from octlet.data.source import open_source


def all_pairs(hashes: list[str], radius: int) -> list[list[int]]:
    values = [int(value, 16) for value in hashes]
    found = []
    for i, one in enumerate(values):
        for j in range(i + 1, len(values)):
            distance = (one ^ values[j]).bit_count()
            if distance <= radius:
                found.append([i, j, distance])
    return found


def planted(n: int, seed: int) -> list[str]:
    """Return random hashes, each with a neighbour 0 to 45 bits away: both sides of the radius."""
    rng = np.random.default_rng(seed)
    hashes = []
    for _ in range(n):
        bits = rng.integers(0, 2, 256, dtype=np.uint8)
        other = bits.copy()
        other[rng.choice(256, int(rng.integers(0, 46)), replace=False)] ^= 1
        hashes += [np.packbits(bits).tobytes().hex(), np.packbits(other).tobytes().hex()]
    return [hashes[i] for i in rng.permutation(len(hashes))]


@pytest.mark.parametrize("radius", [0, 7, 16, RADIUS])
def test_close_pairs_are_those_of_a_search_of_all_pairs(radius: int) -> None:
    hashes = planted(150, seed=radius)
    expected = all_pairs(hashes, radius)
    assert len(expected) > 0
    assert close_pairs(hashes, radius).tolist() == expected


@pytest.mark.parametrize("bit", range(16))
def test_the_one_band_that_differs_in_one_bit_is_found(bit: int) -> None:
    # The worst case of the pigeonhole: 31 bits, two in each of 15 bands and one in the last.
    base = np.zeros(256, dtype=np.uint8)
    position = np.arange(256)
    band = (position % 16 + 5 * (position // 16)) % 16
    other = base.copy()
    for number in range(16):
        own = np.flatnonzero(band == number)
        other[own[[bit]] if number == 9 else own[:2]] = 1
    hashes = [np.packbits(bits).tobytes().hex() for bits in (base, other)]
    assert close_pairs(hashes).tolist() == [[0, 1, 31]]


def test_many_equal_hashes_come_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_CHUNK", 10)
    hashes = ["0" * 64] * 20 + planted(20, seed=3)
    assert close_pairs(hashes).tolist() == all_pairs(hashes, RADIUS)


def test_no_hash_and_one_hash_make_no_pair() -> None:
    assert close_pairs([]).tolist() == []
    assert close_pairs(["0" * 64]).tolist() == []


@pytest.mark.parametrize("radius", [-1, 32])
def test_a_radius_that_would_miss_pairs_is_refused(radius: int) -> None:
    with pytest.raises(ValueError, match="0 to 31"):
        close_pairs(["0" * 64], radius)


def test_the_product_of_thumbnails_is_the_correlation() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 256, (2, 64, 64), dtype=np.uint8)
    expected = np.corrcoef(one.ravel(), other.ravel())[0, 1]
    assert float(thumbnail(one) @ thumbnail(other)) == pytest.approx(expected, abs=1e-6)
    assert not thumbnail(np.full((40, 50), 7, np.uint8)).any()


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=40))
def test_components_are_those_of_scipy(links: list[tuple[int, int]]) -> None:
    names = [f"{number:02d}" for number in range(31)]
    found = components(names, [(names[a], names[b]) for a, b in links])
    pairs = np.array(links, dtype=int).reshape(-1, 2)
    graph = coo_array((np.ones(len(links)), (pairs[:, 0], pairs[:, 1])), shape=(31, 31))
    _, numbers = connected_components(graph, directed=False)
    for number in set(numbers.tolist()):
        members = [name for name, own in zip(names, numbers, strict=True) if own == number]
        assert {found[name] for name in members} == {min(members)}


def eye(seed: int) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).integers(0, 200, (12, 12), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((256, 248), Image.Resampling.BICUBIC))


def write_copies(folder: Path) -> None:
    """Write six different scans, the first one halved, the second recompressed, the third copied."""
    target = folder / "CNV"
    target.mkdir()
    for number in range(6):
        Image.fromarray(eye(number)).save(target / f"CNV-{number}-1.jpeg", quality=90)
    Image.fromarray(eye(0)).resize((128, 124), Image.Resampling.BICUBIC).save(
        target / "CNV-10-1.jpeg", quality=60
    )
    Image.fromarray(eye(1)).save(target / "CNV-1-2.jpeg", quality=40)
    (target / "CNV-12-1.jpeg").write_bytes((target / "CNV-2-1.jpeg").read_bytes())


def test_copies_are_found_and_nothing_else(tmp_path: Path) -> None:
    write_copies(tmp_path)
    records, *_ = build_index(open_source(tmp_path))
    pairs = near_duplicates(tmp_path, records)
    assert [(pair.a, pair.b) for pair in pairs] == [
        ("CNV/CNV-0-1.jpeg", "CNV/CNV-10-1.jpeg"),
        ("CNV/CNV-1-1.jpeg", "CNV/CNV-1-2.jpeg"),
    ]
    assert all(pair.correlation > 0.99 and pair.hamming <= RADIUS for pair in pairs)
    copies = [[record.path for record in group] for group in exact_duplicates(records)]
    assert copies == [["CNV/CNV-12-1.jpeg", "CNV/CNV-2-1.jpeg"]]


def test_a_collision_of_hashes_is_no_near_duplicate(tmp_path: Path) -> None:
    write_copies(tmp_path)
    records, *_ = build_index(open_source(tmp_path))
    alike = [replace(record, dhash="0" * 64) for record in records]  # as if all hashes collided
    assert len(candidates(alike)) == 8 * 7 / 2  # of 9 files, two are the same bytes
    found = {(pair.a, pair.b) for pair in near_duplicates(tmp_path, alike)}
    assert found == {(pair.a, pair.b) for pair in near_duplicates(tmp_path, records)}


def test_each_candidate_is_read_once_however_many_it_meets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_copies(tmp_path)
    records, *_ = build_index(open_source(tmp_path))
    alike = [replace(record, dhash="0" * 64) for record in records[:-1]] + records[-1:]
    read: list[str] = []
    counted: list[int] = []

    def reading(root: Path, path: str) -> NDArray[np.uint8]:
        read.append(path)
        return whole(root, path)

    def counting(numbers: Iterable[int]) -> Iterator[int]:
        for number in numbers:
            counted.append(number)
            yield number

    whole = duplicates.read_pixels
    monkeypatch.setattr(duplicates, "read_pixels", reading)
    near_duplicates(tmp_path, alike, counting)
    close = candidates(alike)
    assert len(close) > 20
    assert sorted(read) == sorted({record.path for pair in close for record in pair[:2]})
    assert counted == list(range(len(read)))
    assert alike[-1].path not in read


def test_identical_files_are_compared_once() -> None:
    record = Record("a", "CNV", "1", "", 5, 5, "0" * 64, "0" * 64)
    same = [replace(record, path=str(number)) for number in range(50)]
    other = replace(record, path="z", sha256="1" * 64)
    assert [(one.path, two.path) for one, two, _ in candidates([*same, other])] == [("0", "z")]


def test_a_jpeg_of_jpeg_is_within_both_limits() -> None:
    data = io.BytesIO()
    Image.fromarray(eye(5)).save(data, "JPEG", quality=30)
    with Image.open(data) as again:
        correlation = float(thumbnail(eye(5)) @ thumbnail(np.asarray(again)))
    assert correlation >= duplicates.CORRELATION
