"""Scans that wait for the server's network are computed together, and answered as if each came alone."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from asking import SCAN, Gate, ask, client, encoded, entered, multipart
from easy import band

from octlet.core.errors import ModelFileError
from octlet.serve.app import App
from octlet.serve.batch import FULL, worth

SCANS = [encoded(band(number % 4, np.random.default_rng(number))) for number in range(6)]


async def while_one_is_computed(app: App, gate: Gate, *bodies: bytes) -> list[Any]:
    """Send bodies while the engine is at a first scan, let it go on, and return their answers."""
    gate.open.clear()
    first = asyncio.create_task(ask(app, SCAN))
    await entered(gate)
    others = [asyncio.create_task(ask(app, body)) for body in bodies]
    while app.worker.waiting < len(bodies):
        await asyncio.sleep(0)
    for _ in range(9):  # from their place to the queue of scans
        await asyncio.sleep(0)
    gate.open.set()
    assert (await first).status == 200
    return await asyncio.gather(*others)


def document(answer: Any) -> Any:
    return json.loads(answer.body)["predictions"][0]


def close(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Sums of another order may round the last digit otherwise."""
    shares = [list(each["probabilities"].values()) for each in (one, other)]
    np.testing.assert_allclose(*shares, atol=1e-5)
    assert one["label"] == other["label"]


def test_scans_that_wait_are_computed_together_and_answered_as_alone(
    make_app: Callable[..., App], gate: Gate
) -> None:
    answers = asyncio.run(while_one_is_computed(make_app(batch=4), gate, *SCANS))
    assert gate.calls == 3  # the first alone, four, and two
    alone = make_app(batch=1)
    for body, answer in zip(SCANS, answers, strict=True):
        close(document(answer), document(asyncio.run(ask(alone, body))))


def test_a_damaged_scan_fails_by_itself(make_app: Callable[..., App], gate: Gate) -> None:
    answers = asyncio.run(while_one_is_computed(make_app(batch=4), gate, SCANS[0], SCAN[:99], SCANS[1]))
    assert [answer.status for answer in answers] == [200, 422, 200]
    assert gate.calls == 2


def test_scans_of_one_form_are_computed_together(make_app: Callable[..., App], gate: Gate) -> None:
    parts = [(f"{number}.png", scan) for number, scan in enumerate(SCANS)]
    parts.insert(2, ("bad.png", SCAN[:99]))
    body, header = multipart(parts)
    told = client(make_app(batch=4)).post("/api/predict", content=body, headers=header).json()
    assert [each["file"] for each in told["predictions"]] == [f"{number}.png" for number in range(6)]
    assert [each["file"] for each in told["errors"]] == ["bad.png"]
    assert gate.calls == 2


def test_a_client_that_leaves_is_left_out_of_the_batch(make_app: Callable[..., App], gate: Gate) -> None:
    app, gone, sizes = make_app(batch=4), asyncio.Event(), []
    run = gate.engine.run
    gate.engine.run = lambda batch: (sizes.append(len(batch)), run(batch))[1]  # type: ignore[method-assign]

    async def story() -> None:
        gate.open.clear()
        first = asyncio.create_task(ask(app, SCAN))
        await entered(gate)
        leaving = asyncio.create_task(ask(app, SCANS[0], gone=gone))
        staying = asyncio.create_task(ask(app, SCANS[1]))
        while app.worker.waiting < 2:
            await asyncio.sleep(0)
        for _ in range(9):
            await asyncio.sleep(0)
        gone.set()
        assert (await leaving).status == 0
        gate.open.set()
        assert [(await first).status, (await staying).status] == [200, 200]

    asyncio.run(story())
    assert sizes == [1, 1]
    assert app.worker.requests == 0


def test_a_fault_of_the_network_reaches_every_scan_of_its_batch(
    make_app: Callable[..., App], gate: Gate
) -> None:
    app = make_app(batch=4)

    async def story() -> list[Any]:
        gate.open.clear()
        tasks = [asyncio.create_task(ask(app, SCAN))]
        await entered(gate)
        tasks += [asyncio.create_task(ask(app, body)) for body in SCANS[:3]]
        while app.worker.waiting < 3:
            await asyncio.sleep(0)
        gate.fault = ModelFileError("broken")
        gate.open.set()
        return await asyncio.gather(*tasks)

    answers = asyncio.run(story())
    assert [(answer.status, answer.code) for answer in answers] == [(500, "bad-model-file")] * 4
    gate.fault = None
    assert client(app).post("/api/predict", content=SCAN, headers={"content-type": "image/png"}).is_success


@pytest.mark.parametrize(
    ("engine", "threads", "wanted"),
    [("onnxruntime", 1, 1), ("onnxruntime", 4, FULL), ("litert", 4, 1), ("openvino", 4, 1)],
)
def test_batches_where_they_were_measured_to_pay(engine: str, threads: int, wanted: int) -> None:
    assert worth(engine, threads) == wanted
