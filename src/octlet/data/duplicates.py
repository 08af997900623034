"""Which scans are the same picture: byte for byte, or but for compression, scaling and brightness.

B-scans all look alike, so likeness is asked twice. Pairs whose 256-bit hashes differ in at most `RADIUS` bits
are candidates; those whose 64 x 64 thumbnails correlate to at least `CORRELATION` are near duplicates.

Both limits come from 722 real scans of 516 patients. Of the 259,885 pairs of different patients the two
closest hashes differ in 45 bits and the two likest thumbnails correlate to 0.946 (0.968 at 28 x 28 pixels).
Copies of the same scans correlate to at least 0.976, and the two limits together find all that were halved
or made 224 x 224, 99 % of those saved as JPEG of quality 30 or brightened by 30 % and 97 % of those with
noise of 8 gray levels added, but only 56 % of those cropped by 1 % a side.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from octlet.data.index import Progress, Record, reading
from octlet.data.source import read_pixels

BANDS = 16
RADIUS = 2 * BANDS - 1  # the widest that one differing bit in each of the bands still finds
CORRELATION = 0.97
THUMBNAIL_SIDE = 64
_CHUNK = 1_000_000
_BITS_IN = np.array([value.bit_count() for value in range(2**16)], dtype=np.uint8)


@dataclass(frozen=True)
class NearPair:
    """Two scans, by path, that show the same picture in different bytes; `a` < `b`."""

    a: str
    b: str
    hamming: int  # of 256 bits
    correlation: float  # of the thumbnails, -1 to 1


def exact_duplicates(records: Iterable[Record]) -> list[list[Record]]:
    """Return the sets of two and more records of the same bytes, in order of their first record."""
    same: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        same[record.sha256].append(record)
    return [group for group in same.values() if len(group) > 1]


def near_duplicates(root: Path, records: Sequence[Record], progress: Progress = iter) -> list[NearPair]:
    """Return the verified near duplicates, sorted; of byte-identical scans only the first one is compared.

    Every candidate is read once more; `progress` wraps the counting iterator. Raises InputError if one cannot
    be.
    """
    close = candidates(records)
    reduced = _reduced_scans(root, sorted({record.path for pair in close for record in pair[:2]}), progress)

    @lru_cache(maxsize=4096)  # 64 MiB: candidates come sorted, so most of them meet again soon
    def thumbnail_of(path: str) -> NDArray[np.float32]:
        return _centred(reduced[path])

    pairs = []
    for one, other, hamming in close:
        correlation = float(thumbnail_of(one.path) @ thumbnail_of(other.path))
        if correlation >= CORRELATION:
            a, b = sorted((one.path, other.path))
            pairs.append(NearPair(a, b, hamming, round(correlation, 4)))
    return sorted(pairs, key=lambda pair: (pair.a, pair.b))


def _reduced_scans(root: Path, paths: Sequence[str], progress: Progress) -> dict[str, NDArray[np.uint8]]:
    """Return the scans at 64 x 64: 4 KiB each, where a hundred thousand centred ones would be gigabytes."""
    if not paths:
        return {}
    with reading() as pool:
        reduced = pool.map(lambda path: _reduced(read_pixels(root, path)), paths)
        return {paths[i]: next(reduced) for i in progress(range(len(paths)))}


def candidates(records: Sequence[Record]) -> list[tuple[Record, Record, int]]:
    """Return the pairs of records, of different bytes, with hashes at most `RADIUS` bits apart."""
    first = list({record.sha256: record for record in reversed(records)}.values())[::-1]
    found = close_pairs([record.dhash for record in first])
    return [(first[i], first[j], distance) for i, j, distance in found.tolist()]


def thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return a scan reduced to 64 x 64, centred and of unit length, as float32 (4096,); zeros if it is blank.

    The product of two of them is their normalised correlation.
    """
    return _centred(_reduced(pixels))


def _reduced(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    side = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    return np.asarray(Image.fromarray(pixels).resize(side, Image.Resampling.BOX))


def _centred(reduced: NDArray[np.uint8]) -> NDArray[np.float32]:
    small = reduced.astype(np.float64).ravel()
    small -= small.mean()
    length = float(np.linalg.norm(small))
    return (small / length if length > 0 else small).astype(np.float32)


def close_pairs(hashes: Sequence[str], radius: int = RADIUS) -> NDArray[np.int64]:
    """Return every (i, j, distance) with i < j and at most `radius` of 256 bits different, sorted.

    Exact, by the pigeonhole principle: of 16 bands of 16 bits, two hashes that differ in at most 31 bits
    share one band but for one bit at most, so only scans that agree that far in a band are compared
    (multi-index hashing: Norouzi, Punjani and Fleet, CVPR 2012). Sorting and searching cost
    O(17 N log N) a band; the comparisons are 16 * 17 / 2**16 = 0.4 % of all pairs if bits were independent,
    1.2 % for 109,022 variants of real scans (seconds, not minutes), and all N * (N - 1) / 2 only if every
    scan were alike.

    Raises ValueError for a radius outside 0 to 31 or a hash that is not 64 hex digits.
    """
    if not 0 <= radius <= RADIUS:
        raise ValueError(f"radius must be 0 to {RADIUS}, not {radius}")
    words = _band_words(hashes)
    found = [np.zeros((0, 3), dtype=np.int64)]
    for band in range(BANDS):
        for left, right in _agreeing(words[:, band]):
            distance = _BITS_IN[words[left] ^ words[right]].sum(axis=1, dtype=np.int64)
            near = distance <= radius
            pair = np.sort(np.stack([left[near], right[near]], axis=1), axis=1)
            found.append(np.concatenate([pair, distance[near, None]], axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _band_words(hashes: Sequence[str]) -> NDArray[np.uint16]:
    """Return the hashes as uint16 (N, 16), one word a band.

    A band takes one bit of each row and column of the hash: neighbours tell nearly the same, and bands of
    neighbours would have few values and long lists to compare.
    """
    packed = np.frombuffer(b"".join(map(bytes.fromhex, hashes)), dtype=np.uint8).reshape(len(hashes), 32)
    position = np.arange(256)
    band = (position % 16 + 5 * (position // 16)) % BANDS
    order = np.argsort(band, kind="stable")
    chosen = np.unpackbits(packed, axis=1)[:, order]
    return np.ascontiguousarray(np.packbits(chosen, axis=1)).view(np.uint16)


def _agreeing(keys: NDArray[np.uint16]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield, in chunks, each pair of positions once whose keys differ in one bit at most."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    own = np.arange(len(keys))
    yield from _expand(order, own, own + 1, np.searchsorted(ordered, ordered, side="right"))
    for bit in range(16):
        mask = np.uint16(1 << bit)
        clear = own[(ordered & mask) == 0]
        probe = ordered[clear] | mask
        start, stop = np.searchsorted(ordered, probe), np.searchsorted(ordered, probe, side="right")
        yield from _expand(order, clear, start, stop)


def _expand(
    order: NDArray[np.int64], own: NDArray[np.int64], start: NDArray[np.int64], stop: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the pairs of `own[k]` with each of start[k] to stop[k], both through `order`, in chunks."""
    count = stop - start
    ends = np.cumsum(count)
    first = 0
    while first < len(own):
        done = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + _CHUNK, side="right")))
        repeats = count[first:last]
        offset = np.arange(int(repeats.sum())) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        right = np.repeat(start[first:last], repeats) + offset
        yield order[np.repeat(own[first:last], repeats)], order[right]
        first = last


def components(names: Iterable[str], links: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return for each name the least name that it is linked to, directly or through others (union-find)."""
    parent = {name: name for name in names}

    def find(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]  # path halving
            name = parent[name]
        return name

    for one, other in links:
        low, high = sorted((find(one), find(other)))
        parent[high] = low
    return {name: find(name) for name in parent}
