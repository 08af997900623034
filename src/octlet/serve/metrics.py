"""What a server has done, as Prometheus' text exposition format 0.0.4 tells it.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

from octlet.core.labels import LABELS

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds

Sample = tuple[str, Mapping[str, str], float]  # what follows the family's name, labels, value


class Metrics:
    """Counts of requests and predictions, and how long answered requests for predictions took."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, int]] = Counter()
        self._predictions = Counter(dict.fromkeys(LABELS, 0))
        self._buckets = [0] * (len(BUCKETS) + 1)
        self._seconds = 0.0

    def request(self, path: str, status: int) -> None:
        """Count a request by path, of which there are few, and HTTP status."""
        self._requests[path, status] += 1

    def predicted(self, labels: Iterable[str], seconds: float) -> None:
        """Count an answered request that took so long, and the labels of its scans."""
        self._predictions.update(labels)
        self._buckets[bisect_left(BUCKETS, seconds)] += 1
        self._seconds += seconds

    def text(self, info: Mapping[str, str], gauges: Mapping[str, tuple[str, float | None]]) -> str:
        """Return the exposition.

        Args:
            info: of the server, as labels of a constant 1.
            gauges: name -> what it is, and its value; None is left out.
        """
        lines = [
            *_family("octlet_info", "gauge", "The server and its model.", [("", info, 1)]),
            *_family("octlet_requests_total", "counter", "Requests by path and status.", self._by_status()),
            *_family("octlet_predictions_total", "counter", "Scans by predicted label.", self._by_label()),
            *_family(
                "octlet_predict_seconds",
                "histogram",
                "Seconds from the headers of a request for predictions to its answer.",
                self._histogram(),
            ),
        ]
        for name, (what, value) in gauges.items():
            if value is not None:
                lines += _family(name, "gauge", what, [("", {}, value)])
        return "\n".join(lines) + "\n"

    def _by_status(self) -> Iterator[Sample]:
        for (path, status), count in sorted(self._requests.items()):
            yield "", {"path": path, "code": str(status)}, count

    def _by_label(self) -> Iterator[Sample]:
        for label, count in self._predictions.items():
            yield "", {"label": label}, count

    def _histogram(self) -> Iterator[Sample]:
        *counts, total = accumulate(self._buckets)
        for bound, count in zip(BUCKETS, counts, strict=True):
            yield "_bucket", {"le": str(bound)}, count
        yield "_bucket", {"le": "+Inf"}, total
        yield "_sum", {}, self._seconds
        yield "_count", {}, total


def _family(name: str, kind: str, what: str, samples: Iterable[Sample]) -> Iterator[str]:
    yield f"# HELP {name} {what}"
    yield f"# TYPE {name} {kind}"
    for suffix, labels, value in samples:
        inner = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        yield f"{name}{suffix}{f'{{{inner}}}' if inner else ''} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
