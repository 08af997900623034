"""Can a scan be judged at all: blank, saturated, noisy, cut off, half empty, upside down; and its layout.

The measures and limits know nothing of any model. None of the 722 scans of the Kermany sample reaches a
limit; how far they stay from it: docs/trust.md.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from octlet.core.image import MARGIN, Gray, at_ranks, padding_mask
from octlet.core.layout import layout_of, levels_of, upright_of

BLANK = 40.0  # grey levels
SATURATED = 0.03
NOISY = 0.28  # noise without any scan comes to 0.39: its own 99.5th percentile is the contrast
CUT = 0.35
EMPTY = 0.85
UPRIGHT = -0.1

_WHITE = 250
_FINEST = 192  # samples along an axis that the shares are counted on
_PATCHES = 8  # bands of rows that noise is measured in
_EDGE = 0.02  # of the height: the bands at the upper and lower edge


@dataclass(frozen=True)
class Quality:
    """What was measured of a scan, padding left out.

    Attributes:
        contrast: the 99.5th percentile above the median, in grey levels, 0 to 255.
        saturated: share of pixels of at least 250.
        noise: standard deviation of the noise as a share of the contrast (Immerkaer 1996, Comput Vis Image
            Underst 64:300).
        cut: share of columns in which tissue is as bright as half the contrast at the upper or lower edge.
        empty: share of columns without tissue.
        upright: -1 to 1, below 0 where tissue begins less sharply at its upper side than it ends at its lower
            one (`octlet.core.layout.upright_of`).
        layout: `octlet.core.layout.MEASURES` of it, which no limit here is set on; () where all is padding.
    """

    contrast: float
    saturated: float
    noise: float
    cut: float
    empty: float
    upright: float
    layout: tuple[float, ...] = ()

    @property
    def fault(self) -> str | None:
        """What keeps a person or a model from judging the scan, as a sentence; None where nothing does."""
        found = {
            f"The image is blank: its contrast is {self.contrast:.0f} grey levels.": self.contrast < BLANK,
            f"The image is too noisy: the noise is {self.noise:.0%} of the contrast.": self.noise > NOISY,
            f"The image is saturated: {self.saturated:.0%} of it is white.": self.saturated > SATURATED,
            f"The tissue is cut off at an edge in {self.cut:.0%} of the columns.": self.cut > CUT,
            f"The scan is empty in {self.empty:.0%} of its columns.": self.empty > EMPTY,
            "The scan seems to lie upside down. Turn it round.": self.upright < UPRIGHT,
        }
        return next((sentence for sentence, applies in found.items() if applies), None)

    def as_dict(self) -> dict[str, float]:
        """Return the measures that have limits, rounded to four decimals."""
        return {each.name: round(getattr(self, each.name), 4) for each in fields(self)[:-1]}


def measure(gray: Gray) -> Quality:
    """Measure a scan, uint8 (H, W), both sides at least 16; a scan that is white throughout is blank."""
    padding = padding_mask(gray)
    if padding.all():
        return Quality(0.0, 1.0, 0.0, 0.0, 1.0, 0.0)
    rows, columns = np.flatnonzero(~padding.all(axis=1)), np.flatnonzero(~padding.all(axis=0))
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    scan, blank = gray[box], padding[box]
    steps = tuple(slice(None, None, max(1, side // _FINEST)) for side in scan.shape)
    coarse, kept = scan[steps], ~blank[steps]
    seen = coarse[kept]
    median, bright = at_ranks(seen, (seen.size - 1) // 2, int(0.995 * (seen.size - 1)))
    contrast = float(bright - median)
    tissue = np.where(kept, np.maximum(coarse - np.float32(median + MARGIN), 0), 0)
    by_column = tissue.sum(axis=0)
    levels = levels_of(np.where(blank, np.uint8(median), scan) if blank.any() else scan)
    usual = np.sort(by_column)[9 * len(by_column) // 10]  # a fringe of padding may outshine all tissue
    return Quality(
        contrast=contrast,
        saturated=float((seen >= _WHITE).mean()),
        noise=_noise(scan, blank) / max(contrast, 1.0),
        cut=_cut(np.where(kept, coarse, np.float32(median)), median + contrast / 2),
        empty=float((by_column <= 0.05 * max(float(usual), 1.0)).mean()),
        upright=upright_of(levels),
        layout=layout_of(levels),
    )


def _noise(scan: Gray, blank: NDArray[np.bool_]) -> float:
    """Return the noise's standard deviation in grey levels, from three rows in each of some bands."""
    sums, count = 0.0, 0
    for top in np.linspace(0, len(scan) - 3, max(0, min(_PATCHES, len(scan) - 2))).astype(int).tolist():
        a, b, c = scan[top : top + 3].astype(np.int64)
        ridge = a - 2 * b + c
        hidden = blank[top] | blank[top + 1] | blank[top + 2]
        inside = ~(hidden[:-2] | hidden[1:-1] | hidden[2:])
        response = np.abs(ridge[:-2] - 2 * ridge[1:-1] + ridge[2:])[inside]
        sums, count = sums + float(response.sum()), count + len(response)
    return float(np.sqrt(np.pi / 2) * sums / (6 * max(count, 1)))


def _cut(scan: NDArray[np.float32], limit: float) -> float:
    """Return in which share of its columns a scan is brighter than the limit at its upper or lower edge."""
    band = max(1, round(_EDGE * len(scan)))
    return float(max((part.mean(axis=0) > limit).mean() for part in (scan[:band], scan[-band:])))
