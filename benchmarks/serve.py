"""What the server adds to the bare predictor, whether it holds four clients, and whether batches are faster.

All ratios of a model file come from one run, side by side, in turn. The server is a process of its own, with
as many threads as the predictor here, one; batches are also measured with every CPU. A turn is two calls: the
first mostly finds another process's data in the caches, the second its own.

    python benchmarks/serve.py docs/results/serve.csv real/dense-int8/fold-0/qat/model.octlet ...
"""

import http.client
import io
import json
import os
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from octlet.core.bundle import open_bundle
from octlet.core.files import csv_of, write_text
from octlet.core.image import decode
from octlet.data.phantom import simulate
from octlet.runtime.engine import load_engine
from octlet.runtime.predictor import Predictor

ROUNDS = 21
STARTS = 3
CLIENTS, REQUESTS = 4, 25  # and requests of each client
BATCH = 4


def main(out: Path, models: list[Path]) -> None:
    rows = []
    for model in models:
        name = open_bundle(model).manifest.name
        rows += [{"network": name, **row} for row in (*beside_bare(model), *batches(model), *batching(model))]
    write_text(out, csv_of(rows))
    for row in rows:
        print(f"{row['network']:24} {row['what']:68} {row['value']:>7}  {row['wanted']}")


def row(what: str, value: float, wanted: str = "") -> dict[str, object]:
    return {"what": what, "value": float(f"{value:.3g}"), "wanted": wanted}


def beside_bare(model: Path) -> Iterator[dict[str, object]]:
    """Yield what the server takes over the bare predictor, and what four clients get of it."""
    scan = encoded_scan()
    predictor = Predictor.open(model, threads=1)
    starts, begin = [], time.process_time()
    for _ in range(ROUNDS):
        bare_call(predictor, scan)
    bare_busy = (time.process_time() - begin) / ROUNDS
    for _ in range(STARTS):
        with server(model) as (_, pid):
            starts.append(cpu_seconds(pid))
    with server(model) as (address, pid):
        ask = client(address)
        body, header = form(scan)
        taken = in_turn(
            {
                "bare": lambda: bare_call(predictor, scan),
                "request": lambda: ask("/api/predict", scan),
                "form": lambda: ask("/api/predict", body, header),
                "heatmap": lambda: ask("/api/predict?heatmap=predicted", scan),
            }
        )
        begin, busy = time.perf_counter(), cpu_seconds(pid)
        with ThreadPoolExecutor(CLIENTS) as pool:
            statuses = list(chain.from_iterable(pool.map(many, repeat(address, CLIENTS), repeat(scan))))
        rate = len(statuses) / (time.perf_counter() - begin)
        busy = (cpu_seconds(pid) - busy) / len(statuses)
    bare = taken["bare"].again
    yield row("bare: milliseconds to decode, prepare and compute a scan", 1e3 * bare)
    yield row("time of a request / bare", taken["request"].again / bare, "<= 1.15")
    yield row("time of a request, the scan in a form / bare", taken["form"].again / bare, "<= 1.15")
    yield row("time of a request with a heatmap / bare", taken["heatmap"].again / bare)
    yield row("time of a request / bare, each after a pause", taken["request"].first / taken["bare"].first)
    yield row("CPU time of a request in the server / of bare", busy / bare_busy)
    yield row(f"{CLIENTS} clients, {len(statuses)} requests: answers other than 200", failures(statuses), "0")
    yield row(f"{CLIENTS} clients: requests in a second / bare scans in a second", rate * bare)
    yield row("seconds of CPU from the command to the first answer", statistics.median(starts), "< 1")


def bare_call(predictor: Predictor, scan: bytes) -> object:
    return predictor.predict([decode(scan, "scan")], ["scan"])


def cpu_seconds(pid: int) -> float:
    """Return what a process has taken, of Linux's /proc: other work on the machine is not in it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def failures(statuses: list[int]) -> int:
    return sum(status != 200 for status in statuses)


def batches(model: Path) -> Iterator[dict[str, object]]:
    """Yield how much faster ONNX Runtime computes a batch than its scans one by one."""
    bundle = open_bundle(model)
    size = bundle.manifest.preprocessing.size
    scans = np.random.default_rng(0).uniform(-1, 1, (BATCH, 1, size, size)).astype(np.float32)
    for threads in sorted({1, os.cpu_count() or 1}):
        engine = load_engine(bundle, threads=threads)
        taken = in_turn(
            {
                "singles": lambda engine=engine: [engine.run(scans[i : i + 1]) for i in range(BATCH)],
                "batch": lambda engine=engine: engine.run(scans),
            }
        )
        what = f"ONNX Runtime, {threads} thread{'s' if threads > 1 else ''}"
        ratio = taken["singles"].again / taken["batch"].again
        yield row(f"{what}: {BATCH} scans one by one / in a batch", ratio)


def batching(model: Path) -> Iterator[dict[str, object]]:
    """Yield how much faster a server with every CPU answers four clients where it computes scans together."""
    scan, threads = encoded_scan(), os.cpu_count() or 1
    with server(model, threads, 1) as (alone, _), server(model, threads, BATCH) as (together, _):
        taken = in_turn({"alone": lambda: crowd(alone, scan), "together": lambda: crowd(together, scan)})
    what = f"{CLIENTS} clients, {threads} threads: seconds with --batch 1 / with --batch {BATCH}"
    yield row(what, taken["alone"].again / taken["together"].again, "> 1")


def crowd(address: str, scan: bytes) -> None:
    with ThreadPoolExecutor(CLIENTS) as pool:
        statuses = chain.from_iterable(pool.map(many, repeat(address, CLIENTS), repeat(scan)))
    if failures(list(statuses)):
        raise RuntimeError("a request was not answered")


class Taken(NamedTuple):
    """Median seconds of the first call of a turn, and of the second."""

    first: float
    again: float


def in_turn(calls: dict[str, Callable[[], object]]) -> dict[str, Taken]:
    """Return what each call takes; they take turns of two calls, each round another begins.

    The first three rounds warm up.
    """
    taken = {name: [] for name in calls}
    order = deque(calls.items())
    for _ in range(ROUNDS + 3):
        for name, call in order:
            taken[name].append(Taken(seconds(call), seconds(call)))
        order.rotate()
    return {
        name: Taken(*map(statistics.median, zip(*turns[3:], strict=True))) for name, turns in taken.items()
    }


def seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def encoded_scan() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(simulate("CNV", np.random.default_rng(0), shape=(496, 512)).pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def form(scan: bytes) -> tuple[bytes, str]:
    head = b'--x\r\nContent-Disposition: form-data; name="scan"; filename="scan.jpeg"\r\n\r\n'
    return head + scan + b"\r\n--x--\r\n", "multipart/form-data; boundary=x"


@contextmanager
def server(model: Path, threads: int = 1, batch: int = 1) -> Iterator[tuple[str, int]]:
    """Yield the address and the process number of a server that has answered once."""
    words = ["serve", "-m", str(model), "--port", "0", "--json"]
    words += ["--threads", str(threads), "--batch", str(batch)]
    command = [sys.executable, "-m", "octlet", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        document = ""
        while not document.endswith("\n}\n"):
            document += process.stdout.readline()
        address = urlsplit(json.loads(document)["url"]).netloc
        client(address)("/api/health", None)
        yield address, process.pid
    finally:
        process.terminate()
        process.wait()


def client(address: str) -> Callable[..., int]:
    """Return what asks on one connection that is kept, and gives the status."""
    connection = http.client.HTTPConnection(address)

    def ask(path: str, body: bytes | None, kind: str = "image/jpeg") -> int:
        connection.request("GET" if body is None else "POST", path, body, {"Content-Type": kind})
        answer = connection.getresponse()
        answer.read()
        return answer.status

    return ask


def many(address: str, scan: bytes) -> list[int]:
    ask = client(address)
    return [ask("/api/predict", scan) for _ in range(REQUESTS)]


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
