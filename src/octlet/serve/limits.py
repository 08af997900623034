"""What one request may take of the machine."""

from dataclasses import dataclass

FILES = 32  # in one form
HEATMAP_PIXELS = 4_000_000  # of a scan; drawing a map takes some 60 bytes for each
DRAWN_PIXELS = 70_000_000  # of all B-scans of a volume whose pictures one answer may hold


@dataclass(frozen=True)
class Limits:
    """What `octlet serve` lets be set.

    Attributes:
        upload: bytes of a request's body.
        seconds: from a request's headers to its answer.
        waiting: requests that wait while another is computed; so many uploads and one are held in memory.
        batch: scans that are computed at once.
    """

    upload: int = 20_000_000
    seconds: float = 30.0
    waiting: int = 16
    batch: int = 1
