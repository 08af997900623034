"""Engines beside ONNX Runtime and `octlet benchmark`; no time is asserted."""

import csv
import io
import json
import statistics
import subprocess
import tomllib
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from litert_file import SIZE, expected, litert_file
from test_device import PYTHON, device

from octlet.cli.main import main
from octlet.core.bundle import GOLDEN, ONNX, EngineFile, open_bundle, write_bundle
from octlet.core.errors import ModelFileError, OctletError, UsageError
from octlet.core.image import normalise
from octlet.runtime import engine as engine_module
from octlet.runtime import startup
from octlet.runtime.benchmark import Benchmark, Row, percentile, thread_counts
from octlet.runtime.benchmark_files import CSV_COLUMNS, benchmark_csv, benchmark_svg
from octlet.runtime.choice import Choice, write_choice
from octlet.runtime.engine import ENGINES, load_engine, readers
from octlet.runtime.machine import Condition, Machine
from octlet.runtime.startup import start
from octlet.runtime.verify import dump_golden, read_golden, verify

needs_litert = pytest.mark.skipif(not ENGINES["litert"].installed, reason="ai-edge-litert is not installed")
needs_openvino = pytest.mark.skipif(not ENGINES["openvino"].installed, reason="openvino is not installed")

TFLITE = "model.tflite"


def rewritten(model_file: Path, path: Path, engines: dict[str, str], **files: bytes) -> Path:
    """Write the model file again with other engines and entries."""
    bundle = open_bundle(model_file)
    keys = {"model_onnx": ONNX, "golden_npz": GOLDEN, "model_tflite": TFLITE}
    contents = {name: bundle.read(name) for name in bundle.manifest.files}
    contents |= {keys[key]: data for key, data in files.items()}
    kept = {name: EngineFile(file) for name, file in engines.items()}
    if ONNX not in engines.values():
        del contents[ONNX]
    write_bundle(path, replace(bundle.manifest, engines=kept), contents)
    return path


@pytest.fixture(scope="module")
def litert_model(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file for LiteRT alone, whose golden vectors numpy computed."""
    vectors = read_golden(open_bundle(model_file))
    vectors = [replace(each, outputs=expected(normalise(each.pixels[None]))) for each in vectors]
    path = tmp_path_factory.mktemp("litert") / "m.octlet"
    return rewritten(
        model_file, path, {"litert": TFLITE}, model_tflite=litert_file(), golden_npz=dump_golden(vectors)
    )


def batch(n: int) -> Any:
    return np.random.default_rng(3).uniform(-1, 1, (n, 1, SIZE, SIZE)).astype(np.float32)


# Engines ----------------------------------------------------------------------------------------------


@needs_openvino
def test_openvino_computes_what_onnx_runtime_does_from_the_same_file(model_file: Path) -> None:
    bundle = open_bundle(model_file)
    assert readers(bundle) == ("onnxruntime", "openvino")
    scans = batch(3)
    a, b = (load_engine(bundle, name, 1).run(scans) for name in readers(bundle))
    for name in ("logits", "cam", "embedding"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=1e-4)
    assert verify(model_file, engine="openvino", threads=1).passed


def onnx_network(name: str = "image", size: int = SIZE, *, output: str = "logits") -> bytes:
    float32, shape = onnx.TensorProto.FLOAT, ["batch", 1, size, size]
    ends = [onnx.helper.make_tensor_value_info(each, float32, shape) for each in (name, output)]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", [name], [output])], "g", ends[:1], ends[1:])
    opset = [onnx.helper.make_opsetid("", 20)]
    data: bytes = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
    return data


@needs_openvino
@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"", "not a network for OpenVINO"),
        (b"no protobuf at all" * 9, "not a network for OpenVINO: Unable to read the model"),
        (onnx_network(), "outputs are not logits, cam, embedding"),
        (onnx_network("x"), "input is not float32 image"),
        (onnx_network(size=32), "input is not float32 image"),
    ],
)
def test_what_openvino_refuses(model_file: Path, tmp_path: Path, data: bytes, rule: str) -> None:
    path = rewritten(model_file, tmp_path / "m.octlet", {"onnxruntime": ONNX}, model_onnx=data)
    with pytest.raises(ModelFileError, match=rule) as caught:
        load_engine(open_bundle(path), "openvino", 1)
    assert caught.value.path == str(path)
    assert "\n" not in str(caught.value)


@needs_litert
def test_litert_computes_what_numpy_does(litert_model: Path) -> None:
    bundle = open_bundle(litert_model)
    assert readers(bundle) == ("litert",)
    scans = batch(3)
    found = load_engine(bundle, "litert", 1).run(scans)
    for i in range(3):
        one = expected(scans[i : i + 1])
        for name in ("logits", "cam", "embedding"):
            np.testing.assert_allclose(getattr(found, name)[i : i + 1], getattr(one, name), atol=1e-4)
    assert verify(litert_model, engine="litert", threads=1).passed


@needs_litert
@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (lambda: b"", "not a network for LiteRT"),
        (lambda: b"no flatbuffer" * 9, "not a network for LiteRT: The model is not a valid Flatbuffer"),
        (lambda: litert_file()[:-400], "not a network for LiteRT"),
        (lambda: litert_file(image="x"), "input is not float32 image"),
        (lambda: litert_file(embedding="y"), "outputs are not logits, cam, embedding"),
    ],
)
def test_what_litert_refuses(model_file: Path, tmp_path: Path, data: Any, rule: str) -> None:
    path = rewritten(model_file, tmp_path / "m.octlet", {"litert": TFLITE}, model_tflite=data())
    with pytest.raises(ModelFileError, match=rule) as caught:
        load_engine(open_bundle(path), "litert", 1)
    assert caught.value.path == str(path)


def test_a_file_without_an_entry_and_an_engine_without_a_package(
    model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(model_file)
    with pytest.raises(ModelFileError, match="for litert, only for onnxruntime") as caught:
        load_engine(bundle, "litert")
    assert caught.value.remedy == "take the engine onnxruntime, openvino"
    missing = replace(ENGINES["openvino"], package="octlet_has_no_such_package", distribution="none-such")
    monkeypatch.setattr(engine_module, "ENGINES", MappingProxyType({**ENGINES, "openvino": missing}))
    with pytest.raises(UsageError, match="OpenVINO is not installed") as absent:
        load_engine(bundle, "openvino")
    assert absent.value.remedy == 'pip install "octlet[openvino]"'
    assert missing.version is None


# Arithmetic and files ---------------------------------------------------------------------------------


def test_percentiles_are_the_nearest_rank() -> None:
    hundred = [float(x) for x in np.random.default_rng(0).permutation(np.arange(1, 101))]
    assert [percentile(hundred, share) for share in (0.5, 0.95, 0.99, 1)] == [50, 95, 99, 100]
    assert [percentile([3.0, 1.0, 2.0], share) for share in (0, 0.5, 0.95, 0.99)] == [1, 2, 3, 3]
    drawn = list(np.random.default_rng(1).exponential(size=137))
    for share in (0.5, 0.95, 0.99):
        assert percentile(drawn, share) == np.percentile(drawn, 100 * share, method="inverted_cdf")


def test_thread_counts() -> None:
    counts = {n: thread_counts(n) for n in (1, 2, 4, 6, 8, 64)}
    assert counts[1] == (1,)
    assert (counts[2], counts[4]) == ((1, 2), (1, 2, 3, 4))
    assert (counts[6], counts[8]) == ((1, 2, 4, 6), (1, 2, 4, 8))
    assert counts[64] == (1, 2, 4, 8, 16, 32, 64)


def a_row(engine: str, threads: int, p50: float, **other: Any) -> Row:
    times = {"p50_ms": p50, "p95_ms": 1.5 * p50, "p99_ms": 2 * p50, "scans_per_second": 1e3 / p50}
    nothing = dict.fromkeys(("load_s", "cold_start_s", "peak_bytes", "celsius", "throttled"))
    return Row(
        **{"engine": engine, "version": None, "threads": threads, "calls": 7, **times, **nothing, **other}
    )


def a_benchmark(*rows: Row, conditions: tuple[Condition, ...] = (Condition(),)) -> Benchmark:
    machine = Machine("Linux", "aarch64", "Raspberry <Pi>", None, 4, None, None)
    return Benchmark({"name": "m & n", "sha256": "f" * 64}, machine, conditions, rows, {})


def test_the_fastest_is_that_of_the_smallest_median_then_of_the_fewest_threads() -> None:
    rows = [a_row("litert", 2, 3.0), a_row("onnxruntime", 1, 5.0), a_row("openvino", 1, 3.0)]
    assert a_benchmark(*rows).fastest == rows[2]


def test_what_held_the_cpu_back_meanwhile_is_warned_of() -> None:
    before = Condition(throttled=0x10000)
    assert a_benchmark(a_row("litert", 1, 1), conditions=(before, before)).warnings == ()
    after = Condition(throttled=0x90002)
    found = a_benchmark(a_row("litert", 1, 1), conditions=(before, after, before))
    assert found.warnings == ("frequency capped", "soft temperature limit")
    assert found.as_dict()["warnings"] == list(found.warnings)


def test_the_csv_holds_every_field_of_every_row() -> None:
    rows = (a_row("litert", 1, 3.25, celsius=51.5, throttled=0), a_row("onnxruntime", 2, 5.0, load_s=0.5))
    header, *lines = csv.reader(io.StringIO(benchmark_csv(a_benchmark(*rows))))
    assert tuple(header) == CSV_COLUMNS == tuple(asdict(rows[0]))
    for line, row in zip(lines, rows, strict=True):
        assert line == ["" if value is None else str(value) for value in asdict(row).values()]


def test_the_figure_draws_medians_to_scale() -> None:
    rows = (a_row("litert", 1, 4.0), a_row("onnxruntime", 2, 1.0), a_row("openvino", 4, 3.0))
    root = ElementTree.fromstring(benchmark_svg(a_benchmark(*rows)))  # noqa: S314 (our own text)
    bars = [each for each in root.iter() if each.tag.endswith("rect")][1:]
    widths = np.array([float(bar.get("width", 0)) for bar in bars])
    np.testing.assert_allclose(widths / widths[0], [1, 0.25, 0.75], atol=0.001)
    assert max(float(bar.get("x", 0)) for bar in bars) + 2 * widths[0] <= float(root.get("width", 0))
    told = " ".join(each.text or "" for each in root.iter())
    assert all(
        name in told for name in ("litert, 1 thread", "openvino, 4 threads", "m & n on Raspberry <Pi>")
    )


# Starting -----------------------------------------------------------------------------------------------


def test_an_engine_that_crashes_is_told_of(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(status: int, out: str = "", err: str = "") -> None:
        done = subprocess.CompletedProcess(["python"], status, out, err)
        monkeypatch.setattr(startup, "python", lambda *words: done)

    ended(-11)
    with pytest.raises(OctletError, match="the engine was ended by signal 11") as caught:
        start(model_file, "litert", 1)
    assert caught.value.remedy == "install another version of ai-edge-litert"
    assert startup.import_fault("litert") == "was ended by signal 11"
    ended(1, err="Traceback\nImportError: no libfoo\n\n")
    with pytest.raises(OctletError, match="the engine failed: ImportError: no libfoo"):
        start(model_file, "litert", 1)
    ended(0, out='INFO: hello\n{"load_seconds": 0.5, "peak_bytes": null, "failed": ["cam"]}\n')
    assert start(model_file, "litert", 1) == startup.Startup("litert", 0.5, None, ("cam",))
    assert startup.import_fault("litert") is None


# The verb -----------------------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


@pytest.mark.skipif(not PYTHON, reason="OCTLET_DEVICE_PYTHON names no Python without torch")
def test_both_verbs_where_torch_was_never_installed(model_file: Path, tmp_path: Path) -> None:
    done = device("-m", "octlet", "doctor", model_file, "--json", cwd=tmp_path)
    assert done.returncode in (0, 1), done.stderr  # 1: a device that is held back at this moment
    states = {each["subject"]: each["state"] for each in json.loads(done.stdout)["findings"]}
    assert states[f"{model_file}, onnxruntime"] == "ok"
    done = device("-m", "octlet", "benchmark", model_file, "--rounds", 2, "--threads", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "fastest: onnxruntime, threads: 1" in done.stdout
    assert len(list((tmp_path / "octlet-benchmark").iterdir())) == 3


@needs_litert
@needs_openvino
def test_benchmark_choose_and_predict(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole way: three engines, of which one computes another network; then predict with the choice."""
    config = tmp_path / "config.toml"
    config.write_text("[serve]\nport = 80\n")
    monkeypatch.setenv("OCTLET_CONFIG", str(config))
    engines = {"onnxruntime": ONNX, "litert": TFLITE}
    model = rewritten(model_file, tmp_path / "m.octlet", engines, model_tflite=litert_file())
    words = ("--rounds", 5, "--threads", 1, "--threads", 2, "--out", tmp_path / "out", "--choose")
    code, out, err = run(capsys, "benchmark", model, *words, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found == json.loads((tmp_path / "out/benchmark.json").read_text())
    rows = found["rows"]
    assert [(row["engine"], row["threads"], row["calls"]) for row in rows] == [
        (engine, threads, 5) for threads in (1, 2) for engine in ("onnxruntime", "openvino")
    ]
    assert found["left_out"]["litert"].startswith("computes something else here: ")
    assert "left out: litert: computes something else" in err
    for row in rows:
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert row["scans_per_second"] > 0
        most = row["threads"] == 2
        assert all((row[name] is not None) == most for name in ("load_s", "cold_start_s", "peak_bytes"))
    assert all(20e6 < row["peak_bytes"] < 2e9 for row in rows[2:])
    table = list(csv.DictReader((tmp_path / "out/benchmark.csv").open()))
    assert [float(row["p50_ms"]) for row in table] == [row["p50_ms"] for row in rows]
    assert (tmp_path / "out/benchmark.svg").read_text().startswith("<svg")

    fastest = min(rows, key=lambda row: row["p50_ms"])
    assert found["fastest"] == {"engine": fastest["engine"], "threads": fastest["threads"]}
    assert tomllib.loads(config.read_text()) == {"serve": {"port": 80}, "runtime": found["fastest"]}

    vector = read_golden(open_bundle(model_file))[0]
    scan = tmp_path / vector.name
    scan.write_bytes(vector.image)
    for engine in ("openvino", "onnxruntime"):
        write_choice(config, Choice(engine, 1))
        for given, expected_engine in (((), engine), (("--engine", "onnxruntime"), "onnxruntime")):
            code, out, err = run(capsys, "predict", "-m", model, scan, "--json", *given)
            assert (code, json.loads(out)["model"]["engine"]) == (0, expected_engine)


def test_predict_takes_the_threads_that_were_chosen(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []
    load = engine_module.loader
    monkeypatch.setattr(
        "octlet.runtime.predictor.loader",
        lambda b, name, n, **kept: asked.append(n) or load(b, name, 1, **kept),
    )
    config = tmp_path / "config.toml"
    monkeypatch.setenv("OCTLET_CONFIG", str(config))
    vector = read_golden(open_bundle(model_file))[0]
    (tmp_path / vector.name).write_bytes(vector.image)
    words = ("predict", "-m", model_file, tmp_path / vector.name)
    assert run(capsys, *words)[0] == 0
    config.write_text("[runtime]\nthreads = 2\n")
    assert run(capsys, *words)[0] == 0
    assert run(capsys, *words, "--threads", 1)[0] == 0
    assert asked == [None, 2, 1]


def test_a_chosen_engine_that_a_file_does_not_serve_is_an_error(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[runtime]\nengine = "litert"\n')
    monkeypatch.setenv("OCTLET_CONFIG", str(config))
    code, _, err = run(capsys, "predict", "-m", model_file, "scan.png")
    assert code == 4
    assert "holds no network for litert, only for onnxruntime (take the engine onnxruntime, openvino)" in err
    config.write_text("[runtime]\nthread = 1\n")
    code, _, err = run(capsys, "predict", "-m", model_file, "scan.png")
    assert code == 2
    assert f"{config}: unknown setting 'runtime.thread' (did you mean 'threads'?)" in err
    code, _, err = run(capsys, "benchmark", model_file, "--choose", "--out", tmp_path / "out")
    assert (code, (tmp_path / "out").exists()) == (2, False)


def test_what_benchmark_refuses(model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    code, text, _ = run(capsys, "benchmark", tmp_path / "none.octlet", "--json")
    assert (code, json.loads(text)["error"]["code"]) == (4, "bad-model-file")
    assert run(capsys, "benchmark", model_file, "--engine", "tensorrt")[0] == 2
    code, _, err = run(capsys, "benchmark", model_file, "--engine", "litert", "--out", out)
    assert code == 4
    assert "no network for litert" in err
    assert run(capsys, "benchmark", model_file, "--rounds", 0)[0] == 2
    assert not out.exists()


def test_a_model_that_computes_something_else_is_not_timed(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *rest = read_golden(open_bundle(model_file))
    outputs = replace(first.outputs, logits=np.roll(first.outputs.logits, 1, axis=1))
    golden = dump_golden([replace(first, outputs=outputs), *rest])
    path = rewritten(model_file, tmp_path / "m.octlet", {"onnxruntime": ONNX}, golden_npz=golden)
    code, _, err = run(capsys, "benchmark", path, "--engine", "onnxruntime", "--out", tmp_path / "out")
    assert code == 5
    assert "computes something else here: " in err
    assert "logits" in err


def test_the_median_of_latency_is_that_of_its_seconds() -> None:
    from test_latency import Machine as Clock

    from octlet.runtime import latency

    clock = Clock()
    engines = [clock.engine("a", [9, 1, 2, 4]), clock.engine("b", [9, 3, 3, 5])]
    found = latency.measure(engines, [32, 32], rounds=3, warm_up=1, clock=clock.clock)
    assert found.seconds == ((1, 2, 4), (3, 3, 5))
    assert found.medians == tuple(map(statistics.median, found.seconds))
