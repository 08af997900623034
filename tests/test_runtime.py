"""Engines, predictor and the self-check, without the command line."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import scipy.special
from engines import FakeEngine, scans
from numpy.typing import NDArray

from octlet.core.bundle import GOLDEN, ONNX, open_bundle, write_bundle
from octlet.core.errors import InputError, ModelFileError, UsageError
from octlet.core.image import normalise, prepare
from octlet.core.labels import LABELS, NOTICE
from octlet.core.prediction import CSV_COLUMNS, Prediction
from octlet.core.quality import Quality
from octlet.runtime.engine import Engine, Outputs, load_engine
from octlet.runtime.predictor import Predictor, softmax
from octlet.runtime.verify import GoldenVector, compare, dump_golden, pixel_difference, read_golden, verify

Batch = NDArray[np.float32]
FAIR = Quality(contrast=150.0, saturated=0.0, noise=0.02, cut=0.0, empty=0.0, upright=0.5)


class BrokenEngine:
    """Says NaN."""

    name = "broken"

    def run(self, batch: Batch) -> Outputs:
        n = len(batch)
        return Outputs(
            np.full((n, 4), np.nan, np.float32), np.zeros((n, 4, 1, 1), np.float32), batch[:, 0, 0]
        )


def tampered(model_file: Path, path: Path, **files: bytes) -> Path:
    """Write the model file again with other entries, hashes and all."""
    bundle = open_bundle(model_file)
    new = {"model_onnx": ONNX, "golden_npz": GOLDEN}
    contents = {name: bundle.read(name) for name in bundle.manifest.files}
    write_bundle(path, bundle.manifest, contents | {new[key]: data for key, data in files.items()})
    return path


# Predictor --------------------------------------------------------------------------------------------


def test_a_fake_engine_is_enough(model_file: Path) -> None:
    engine: Engine = FakeEngine()
    predictor = Predictor(open_bundle(model_file), engine)
    gray = np.zeros((64, 64), np.uint8)
    gray[16:32] = 200  # the second quarter: DME
    gray[[0, -1]] = 100  # tissue at both edges: nothing is cut
    scores = predictor.run([gray])
    np.testing.assert_allclose(scores.logits, normalise(gray[None]).reshape(1, 4, -1).mean(axis=2), atol=1e-6)
    (prediction,) = predictor.predict([gray], ["scan.png"])
    assert (prediction.file, prediction.label, prediction.urgency) == ("scan.png", "DME", "urgent")
    assert scores.boxes == ((0, 0, 64, 64),)
    assert predictor.predict([], []) == []


class Sided:
    """Sees the left half of a scan: its mean, times 40, is the logit of NORMAL; keeps what it was shown."""

    name = "sided"

    def __init__(self) -> None:
        self.shown: list[Batch] = []

    def run(self, batch: Batch) -> Outputs:
        self.shown.append(batch)
        cam = np.zeros((len(batch), 4, 1, 2), np.float32)
        cam[:, 3, 0, 0] = 80 * batch[:, 0, :, : batch.shape[-1] // 2].mean(axis=(1, 2))
        return Outputs(cam.mean(axis=(2, 3)), cam, batch[:, 0, 0].copy())


def test_a_scan_that_leaves_doubt_is_looked_at_again_mirrored(model_file: Path) -> None:
    bundle = open_bundle(model_file)
    half = np.full((64, 64), 120, np.uint8)
    half[[0, -1]] = 130  # tissue at both edges: nothing is cut
    half[:, 32:] += np.arange(64, dtype=np.uint8)[:, None] + 20  # the right half is brighter
    sure = np.full((64, 64), 240, np.uint8)
    once, twice = Sided(), Sided()
    first = Predictor(bundle, once).run([sure, half])
    plain = replace(bundle, manifest=replace(bundle.manifest, second_look=0.7))
    both = Predictor(plain, twice).run([sure, half])
    assert [len(batch) for batch in once.shown] == [2]
    assert [len(batch) for batch in twice.shown] == [2, 1]
    np.testing.assert_array_equal(twice.shown[1][0], twice.shown[0][1][:, :, ::-1])
    certain, doubtful = scipy.special.softmax(first.logits.astype(np.float64), axis=1).max(axis=1)
    assert certain > 0.7 > doubtful
    right = 40 * once.shown[0][1, 0, :, 32:].mean()
    expected = first.logits.copy()
    expected[1, 3] = (expected[1, 3] + right) / 2
    np.testing.assert_allclose(both.logits, expected, rtol=1e-6)
    np.testing.assert_allclose(both.probabilities, scipy.special.softmax(expected.astype(float), axis=1))
    assert first.logits[1].argmax() != both.logits[1].argmax() == 3
    np.testing.assert_array_equal(both.cam, first.cam)  # the maps are of the scan as it is


def test_probabilities_against_scipy(model_file: Path) -> None:
    predictor = Predictor.open(model_file)
    scores = predictor.run(scans())
    assert scores.probabilities.dtype == np.float64
    expected = scipy.special.softmax(scores.logits.astype(np.float64), axis=1)
    np.testing.assert_allclose(scores.probabilities, expected, rtol=1e-12)
    np.testing.assert_allclose(scores.cam.mean(axis=(2, 3)), scores.logits, atol=1e-4)
    huge = softmax(np.array([[1e4, 0, 0, -1e4]], np.float32))
    np.testing.assert_array_equal(huge, [[1, 0, 0, 0]])


def test_the_predictor_computes_what_torch_does(model_file: Path, request: pytest.FixtureRequest) -> None:
    torch = pytest.importorskip("torch")
    tiny_run: Path = request.getfixturevalue("tiny_run")
    from octlet.train.checkpoint import load_run

    predictor = Predictor.open(model_file, threads=1)
    grays = scans(5)
    batch = normalise(np.stack([prepare(gray, 64).pixels for gray in grays]))
    with torch.inference_mode():
        expected = load_run(tiny_run).net(torch.from_numpy(batch))
    scores = predictor.run(grays)
    np.testing.assert_allclose(scores.logits, expected.logits.numpy(), atol=1e-4)
    np.testing.assert_allclose(scores.cam, expected.cam.numpy(), atol=1e-4)


def test_a_scan_does_not_depend_on_its_neighbours(model_file: Path) -> None:
    predictor = Predictor.open(model_file)
    together = predictor.predict(scans(), list("abc"))
    alone = [predictor.predict([gray], [name])[0] for gray, name in zip(scans(), "abc", strict=True)]
    assert [p.as_dict() for p in together] == [p.as_dict() for p in alone]


def test_identity(model_file: Path) -> None:
    import hashlib

    identity = Predictor.open(model_file).identity
    assert identity["name"] == "tiny"
    assert identity["sha256"] == hashlib.sha256(model_file.read_bytes()).hexdigest()
    assert (identity["schema"], identity["engine"]) == (1, "onnxruntime")
    assert {"octlet", "torch", "onnx"} <= identity["versions"].keys()


def test_a_white_scan_is_named(model_file: Path) -> None:
    with pytest.raises(InputError, match="white") as caught:
        Predictor.open(model_file).predict([np.full((64, 64), 255, np.uint8)], ["blank.png"])
    assert caught.value.path == "blank.png"


def test_a_scan_that_was_measured_before_is_not_measured_again(model_file: Path) -> None:
    predictor = Predictor.open(model_file, threads=1)
    scan = scans(1)[0]
    scores = predictor.run([scan])
    said = predictor.judge(scan, "a", scores)
    assert predictor.judge(scan, "a", scores, quality=said.quality) == said
    assert predictor.judge(scan, "a", scores, quality=FAIR).quality is FAIR


def test_numbers_that_are_not_finite_are_no_result(model_file: Path) -> None:
    predictor = Predictor(open_bundle(model_file), BrokenEngine())
    with pytest.raises(ModelFileError, match="not finite") as caught:
        predictor.run(scans())
    assert caught.value.path == str(model_file)


@pytest.mark.parametrize(
    ("logits", "cam", "embedding"),
    [
        ((2, 3), (2, 4, 1, 1), (2, 5)),
        ((2, 4), (2, 3, 1, 1), (2, 5)),
        ((2, 4), (2, 4), (2, 5)),
        ((2, 4), (2, 4, 1, 1), (1, 5)),
    ],
)
def test_outputs_of_other_shapes(
    logits: tuple[int, ...], cam: tuple[int, ...], embedding: tuple[int, ...]
) -> None:
    with pytest.raises(ModelFileError, match="for 2 scans"):
        Outputs(*(np.zeros(shape, np.float32) for shape in (logits, cam, embedding)))


def test_outputs_of_another_type() -> None:
    with pytest.raises(ModelFileError, match="float64"):
        Outputs(np.zeros((1, 4)), np.zeros((1, 4, 1, 1), np.float32), np.zeros((1, 2), np.float32))  # type: ignore[arg-type]


def test_prediction() -> None:
    prediction = Prediction.of("a.png", np.array([0.25, 0.25, 0.4999999, 0.0000001]), FAIR)
    assert (prediction.label, prediction.urgency) == ("DRUSEN", "routine")
    assert prediction.as_dict()["probabilities"] == dict(zip(LABELS, (0.25, 0.25, 0.5, 0.0), strict=True))
    row = dict(zip(CSV_COLUMNS, prediction.as_row(), strict=True))
    assert (row["file"], row["p_DRUSEN"], row["notice"]) == ("a.png", "0.500000", NOTICE)
    assert Prediction.of("tie", np.full(4, 0.25), FAIR).label == "CNV"


# Engines ----------------------------------------------------------------------------------------------


def test_an_engine_that_is_not_there(model_file: Path, tmp_path: Path) -> None:
    bundle = open_bundle(model_file)
    with pytest.raises(UsageError, match="unknown engine 'tensorrt'"):
        load_engine(bundle, "tensorrt")
    with pytest.raises(UsageError, match="0 threads"):
        load_engine(bundle, threads=0)
    other = replace(bundle.manifest, engines={"another": bundle.manifest.engines["onnxruntime"]})
    path = tmp_path / "m.octlet"
    write_bundle(path, other, {name: bundle.read(name) for name in bundle.manifest.files})
    with pytest.raises(ModelFileError, match="no network for onnxruntime, only for another"):
        Predictor.open(path)


@pytest.mark.parametrize("data", [b"", b"no protobuf at all" * 9, b"\x08\x07"])
def test_bytes_that_are_no_network(model_file: Path, tmp_path: Path, data: bytes) -> None:
    path = tampered(model_file, tmp_path / "m.octlet", model_onnx=data)
    with pytest.raises(ModelFileError, match="not a network for ONNX Runtime") as caught:
        Predictor.open(path)
    assert caught.value.path == str(path)
    assert "\n" not in str(caught.value)


def network(
    *, name: str = "image", size: int = 64, batch: str | int = "batch", outputs: str = "logits"
) -> bytes:
    image = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [batch, 1, size, size])
    result = onnx.helper.make_tensor_value_info(outputs, onnx.TensorProto.FLOAT, [batch, 1, size, size])
    node = onnx.helper.make_node("Relu", [name], [outputs])
    graph = onnx.helper.make_graph([node], "g", [image], [result])
    opset = [onnx.helper.make_opsetid("", 20)]
    data: bytes = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
    return data


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (network(), "outputs are not logits, cam, embedding"),
        (network(name="x"), "input is not float32 image"),
        (network(size=32), "input is not float32 image"),
        (network(batch=1), "input is not float32 image"),
    ],
)
def test_a_network_of_another_interface(model_file: Path, tmp_path: Path, data: bytes, rule: str) -> None:
    with pytest.raises(ModelFileError, match=rule):
        Predictor.open(tampered(model_file, tmp_path / "m.octlet", model_onnx=data))


# The self-check ---------------------------------------------------------------------------------------


def checks(path: Path) -> dict[str, bool]:
    return {check.name: check.passed for check in verify(path).checks}


def test_a_sound_file_passes(model_file: Path) -> None:
    report = verify(model_file, threads=1)
    assert report.passed
    names = [check.name for check in report.checks]
    assert sum("SHA-256" in name for name in names) == 3
    assert sum("pixels" in name for name in names) == sum("label" in name for name in names) == 4
    assert {"logits", "cam", "embedding"} <= set(names)
    assert report.as_dict()["notice"] == NOTICE


def changed(model_file: Path, path: Path, change: str) -> Path:
    """Write a model file whose first golden vector expects something else."""
    first, *rest = read_golden(open_bundle(model_file))
    logits, cam, embedding = (getattr(first.outputs, name).copy() for name in ("logits", "cam", "embedding"))
    image, pixels = first.image, first.pixels.copy()
    if change == "logits":
        logits += 0.01 * np.ptp(logits)
    elif change == "label":
        logits = np.roll(logits, 1, axis=1)
    elif change == "embedding":
        embedding[0, 0] += 1
    elif change == "cam":
        cam = cam[:, :, :1]
    elif change == "pixels":
        pixels[5, 5] += 2
    elif change == "image":
        image = b"no image"
    vector = GoldenVector(first.name, image, pixels, Outputs(logits, cam, embedding))
    return tampered(model_file, path, golden_npz=dump_golden([vector, *rest]))


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ("logits", "logits"),
        ("label", "phantom-CNV.jpeg: label"),
        ("embedding", "embedding"),
        ("cam", "cam"),
        ("pixels", "phantom-CNV.jpeg: pixels"),
        ("image", "phantom-CNV.jpeg: pixels"),
    ],
)
def test_another_result_is_found(model_file: Path, tmp_path: Path, change: str, check: str) -> None:
    assert checks(changed(model_file, tmp_path / "m.octlet", ""))[check]
    assert not checks(changed(model_file, tmp_path / "m.octlet", change))[check]


def npz(**arrays: NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\5\6" + bytes(18),
        npz(**{"a/image": np.zeros(3, np.uint8)}),
        npz(**{"a/image": np.array([{}], dtype=object)}),
        npz(x=np.zeros((20, 2**20), np.float32)),
    ],
)
def test_golden_vectors_that_are_none(model_file: Path, tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ModelFileError, match=r"golden\.npz"):
        verify(tampered(model_file, tmp_path / "m.octlet", golden_npz=data))


def test_differences() -> None:
    a, b = np.zeros((10, 10), np.uint8), np.zeros((10, 10), np.uint8)
    b[0, 0] = 255
    assert pixel_difference(a, b) == pixel_difference(b, a) == (255, 0.01)

    def outputs(shift: float, scale: float = 1.0) -> Outputs:
        ramp = scale * np.arange(4, dtype=np.float32)[None]
        return Outputs(ramp + np.float32(shift), ramp[:, :, None, None], ramp)

    assert compare([outputs(0)], [outputs(0.3)]) == pytest.approx({"logits": 0.1, "cam": 0, "embedding": 0})
    # the range is that of all vectors together, not of each
    assert compare([outputs(0), outputs(3)], [outputs(0.3), outputs(3)])["logits"] == pytest.approx(0.05)
    flat = compare([outputs(0, 0)], [outputs(0.1, 0)])
    assert flat == {"logits": np.inf, "cam": 0.0, "embedding": 0.0}
