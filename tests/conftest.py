"""Fixtures that every test file may use."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import easy
import pytest
import tiny
from hypothesis import settings

settings.register_profile("octlet", deadline=None, derandomize=True)  # a slow machine is no failure
settings.load_profile("octlet")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep prepared scans and choices out of the user's files, and take none from there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OCTLET_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("OCTLET_CONFIG", str(tmp_path_factory.mktemp("config") / "config.toml"))
        patch.delenv("OCTLET_MODEL", raising=False)
        yield


@pytest.fixture(scope="session")
def octlet() -> Run:
    """Run the real command in a process of its own; never raises on a non-zero exit."""

    def run(*args: object, **kwargs: object) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "octlet", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=280, **kwargs)  # type: ignore[call-overload,no-any-return]

    return run


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of `tiny`."""
    folder = tmp_path_factory.mktemp("tiny") / "tiny-run"
    tiny.write_run(folder)
    return folder


@pytest.fixture(scope="session")
def easy_scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of scans that are easy to learn; do not write to it."""
    root = tmp_path_factory.mktemp("easy")
    easy.write_bands(root)
    return root


@pytest.fixture(scope="session")
def easy_run(easy_scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A resnet18 that has learned the easy scans, without their test fold; do not write to it."""
    out = tmp_path_factory.mktemp("float") / "run"
    words = ["--model", "resnet18", "--size", 32, "--batch", 8, "--lr", 0.003, "--epochs", 10, *easy.STILL]
    kept = easy.result_of("train", "--data", easy_scans, "--out", out, *words)["kept"]
    assert kept["val_accuracy"] > 0.8
    return out


@pytest.fixture(scope="session")
def model_file(request: pytest.FixtureRequest) -> Path:
    """The tiny run as a model file; do not write to it. OCTLET_TEST_MODEL names it where torch is not."""
    if ready := os.environ.get("OCTLET_TEST_MODEL"):
        return Path(ready)
    run: Path = request.getfixturevalue("tiny_run")
    tiny.write_model(run, run.parent / "model.octlet")
    return run.parent / "model.octlet"


@pytest.fixture(scope="module")  # its event loop runs in this thread, where other modules start their own
def browser() -> Iterator[Any]:
    """A headless Chromium; skips where there is none."""
    from browsing import chromium

    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def url(model_file: Path) -> Iterator[str]:
    """Where a real `octlet serve` answers with the tiny model."""
    from browsing import serving

    with serving(model_file) as url:
        yield url


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Any]:
    """The served page, usable, in a visit of its own."""
    from browsing import ready, visit

    with visit(browser, url, viewport={"width": 1280, "height": 800}, color_scheme="light") as page:
        yield ready(page)


@pytest.fixture
def gate(model_file: Path) -> Any:
    """An engine that the test can hold at a scan: `asking.Gate`."""
    from asking import Gate

    return Gate(model_file)


@pytest.fixture
def make_app(gate: Any) -> Iterator[Callable[..., Any]]:
    """Make applications of `gate` with these limits; their workers end with the test."""
    from octlet.serve.app import App
    from octlet.serve.limits import Limits

    with ExitStack() as ended:

        def make(log: Callable[[str], None] = lambda line: None, **limits: Any) -> App:
            app = App(gate.predictor, limits=Limits(**limits), log=log)
            ended.callback(app.worker.close)
            return app

        yield make
        gate.open.set()


@pytest.fixture(scope="session")
def quick_folding() -> Callable[[], AbstractContextManager[None]]:
    """Save most of what torchao spends on a preparation and a conversion, the same for nets of any size.

    To fuse and to fold batch norms it traces patterns of four kinds of convolution, of which we have one.
    """
    from torch.nn.functional import conv2d
    from torchao.quantization.pt2e import qat_utils

    def ours(whole: Callable[..., Any]) -> Callable[..., Any]:
        return lambda graph, kind, *rest, **named: (
            whole(graph, kind, *rest, **named) if kind is conv2d else graph
        )

    @contextmanager
    def quick() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("_fuse_conv_bn_qat_helper", "_fold_conv_bn_qat_helper"):
                patch.setattr(qat_utils, name, ours(getattr(qat_utils, name)))
            yield

    return quick
