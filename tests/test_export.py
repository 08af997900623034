"""From a run to a model file: the same network, and nothing of the machine or of a patient in its bytes."""

import json
import logging.handlers
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import octlet as package
from octlet.cli.main import main
from octlet.core.bundle import CARD, ONNX, Tolerances, open_bundle
from octlet.core.errors import GateError, InputError, ModelFileError, UsageError
from octlet.core.image import decode
from octlet.core.labels import LABELS, NOTICE
from octlet.data.phantom import simulate
from octlet.export.card import render_card
from octlet.export.onnx import check_parity, torch_outputs
from octlet.export.package import LICENCE, export_run, golden_vectors
from octlet.models.resnet import ResNet
from octlet.runtime.engines import onnxruntime
from octlet.runtime.predictor import Predictor
from octlet.runtime.verify import compare, read_golden, verify
from octlet.train.checkpoint import load_run, save_run
from octlet.train.prior import shift_prior


@pytest.fixture(scope="module")
def net(tiny_run: Path) -> ResNet:
    return load_run(tiny_run).net


def inputs(n: int = 4) -> np.ndarray:
    return np.random.default_rng(3).uniform(-1, 1, (n, 1, 64, 64)).astype(np.float32)


def test_export_through_the_command(
    tiny_run: Path, model_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new folder" / "again.octlet"
    chatter = logging.handlers.BufferingHandler(1000)
    logger = logging.getLogger("torch.onnx")
    logger.addHandler(chatter)
    assert main(["export", str(tiny_run), "--out", str(out), "--name", "tiny", "--json"]) == 0
    logger.removeHandler(chatter)
    assert chatter.buffer == []
    stdout, stderr = capfd.readouterr()
    result = json.loads(stdout)  # one document: torch's chatter is not on stdout
    assert out.read_bytes() == model_file.read_bytes()  # equal runs, equal bytes
    assert (result["model"], result["name"], result["bytes"]) == (str(out), "tiny", out.stat().st_size)
    assert (result["size"], result["golden"]) == (64, 4)
    assert result["parameters"] == sum(p.numel() for p in load_run(tiny_run).net.parameters())
    assert max(result["parity"].values()) < 1e-5
    assert f"next: octlet verify '{out}'" in stderr
    assert verify(out).passed


def test_the_graph(model_file: Path, net: ResNet) -> None:
    model = onnx.load_from_string(open_bundle(model_file).read(ONNX))
    onnx.checker.check_model(model, full_check=True)

    def form(value: onnx.ValueInfoProto) -> tuple[str, list[int | str]]:
        return value.name, [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]

    assert [form(each) for each in model.graph.input] == [("image", ["batch", 1, 64, 64])]
    assert [form(each) for each in model.graph.output] == [
        ("logits", ["batch", 4]),
        ("cam", ["batch", 4, 2, 2]),
        ("embedding", ["batch", 20]),
    ]
    assert not {node.op_type for node in model.graph.node} & {"BatchNormalization", "Dropout"}


@pytest.mark.parametrize("n", [1, 2, 5])
def test_every_batch_size(model_file: Path, net: ResNet, n: int) -> None:
    outputs = onnxruntime.load(open_bundle(model_file).read(ONNX), 64, 1).run(inputs(n))
    rows = torch_outputs(net, inputs(n))
    np.testing.assert_allclose(outputs.logits, np.concatenate([row.logits for row in rows]), atol=1e-4)
    np.testing.assert_allclose(outputs.embedding, np.concatenate([row.embedding for row in rows]), atol=1e-4)


def test_nothing_of_the_exporting_machine_is_in_the_file(model_file: Path, tiny_run: Path) -> None:
    data = model_file.read_bytes()
    for place in (Path(package.__file__).parent, Path(torch.__file__).parent, Path.home(), tiny_run.parent):
        assert str(place).encode() not in data
    assert b"stack_trace" not in data


def test_the_golden_inputs_are_simulated(model_file: Path) -> None:
    vectors = read_golden(open_bundle(model_file))
    rng = np.random.default_rng(2018)
    for vector, label, part in zip(vectors, LABELS, (1, 4, 4, 4), strict=True):
        phantom = simulate(label, rng, shape=(496, 512)).pixels
        shown = decode(vector.image, vector.name).astype(int)
        means = phantom.reshape(496 // part, part, 512 // part, part).mean((1, 3))
        assert shown.shape == means.shape
        assert np.abs(shown - means).max() <= (0.5 if vector.name.endswith(".png") else 100)
    assert [vector.name.rpartition(".")[2] for vector in vectors] == ["jpeg", "png", "jpeg", "png"]


class Says(torch.nn.Module):
    """A network that gives these logits, one scan after the other, whatever it is shown."""

    def __init__(self, *leads: float) -> None:
        super().__init__()
        self.leads, self.shown = list(leads), 0

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        self.shown += 1
        logits = torch.tensor([[1.0, 1.0 - (self.leads.pop(0) if self.leads else 0.5), 0.0, 0.0]])
        return logits, logits[..., None, None], logits


def test_a_golden_scan_that_stands_between_two_labels_is_drawn_again() -> None:
    limits = Tolerances(logits=0.03)
    clear = golden_vectors(Says(), 64, limits)
    net = Says(0.0, 0.11, 0.13)  # the tolerance's double, and double again, is 0.12
    drawn = golden_vectors(net, 64, limits)
    assert net.shown == 6
    assert [each.name for each in drawn] == [each.name for each in clear]
    assert drawn[0].outputs.logits[0, 1] == pytest.approx(0.87)
    rng = np.random.default_rng(2018)
    third = [simulate("CNV", rng, shape=(496, 512)).pixels for _ in range(3)][2]
    assert np.abs(decode(drawn[0].image, drawn[0].name).astype(int) - third).max() < 100
    never = golden_vectors(Says(*[0.0] * 5, 0.1, *[0.0] * 58), 64, limits)
    assert never[0].outputs.logits[0, 1] == pytest.approx(0.9)  # none is clear: the clearest
    assert [np.ptp(each.outputs.logits[0, :2]) for each in never[1:]] == [0, 0, 0]


def test_parity_is_a_gate(model_file: Path, net: ResNet, tiny_run: Path) -> None:
    data = open_bundle(model_file).read(ONNX)
    assert set(check_parity(data, net, inputs(), Tolerances())) == {"logits", "cam", "embedding"}
    other = load_run(tiny_run).net
    with torch.no_grad():
        other.fc.bias.add_(0.5)
    with pytest.raises(GateError, match=r"logits are .* of their range from torch's"):
        check_parity(data, other, inputs(), Tolerances())
    with torch.no_grad():
        other.fc.bias[torch_outputs(net, inputs())[0].logits.argmin()] += 1e4
    loose = Tolerances(logits=np.inf, cam=np.inf, embedding=np.inf)
    with pytest.raises(GateError, match="another label"):
        check_parity(data, other, inputs(), loose)
    assert compare(torch_outputs(net, inputs()), torch_outputs(net, inputs()))["logits"] == 0


def test_a_network_that_no_model_file_takes(tmp_path: Path) -> None:
    from octlet.models.resnet import build
    from octlet.models.spec import NetSpec, UnitSpec

    spec = NetSpec("v1.5", 8, ((UnitSpec((8, 8), 1, False),),), classes=2)
    save_run(tmp_path / "run", build(spec), {"spec": spec.as_dict(), "size": 64})
    with pytest.raises(ModelFileError, match="2 classes"):
        export_run(tmp_path / "run", tmp_path / "m.octlet")
    assert not (tmp_path / "m.octlet").exists()


def test_faults(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such run folder"):
        export_run(tmp_path / "absent", tmp_path / "m.octlet")
    with pytest.raises(ModelFileError, match="no such checkpoint"):
        export_run(tmp_path, tmp_path / "m.octlet")
    for name in ("model.onnx", "model", "folder.octlet"):
        (tmp_path / "folder.octlet").mkdir(exist_ok=True)
        with pytest.raises(UsageError, match=r"ends in \.octlet"):
            export_run(tiny_run, tmp_path / name)


def test_manifest_and_card(model_file: Path) -> None:
    manifest = open_bundle(model_file).manifest
    assert manifest.training["data"]["patients"] == 7
    assert (manifest.training["epoch"], manifest.metrics["val_loss"]) == (3, 1.25)
    assert manifest.licence == LICENCE
    card = zipfile.ZipFile(model_file).read(CARD).decode()
    for text in (
        NOTICE,
        "# tiny",
        "- patients: 7",
        "| val loss | 1.25 |",
        "not in this file",
        LICENCE,
        "CNV 12",
    ):
        assert text in card
    assert "octlet verify" in card
    assert "{" not in card
    bare = replace(manifest, metrics={}, training={"data": {}, "epoch": None})
    text = render_card(bare, parameters=1, onnx_bytes=2, width=3)
    assert "does not say what it was trained on" in text
    assert "no validation figures" in text


def test_a_second_look_is_asked_for_in_the_file(tiny_run: Path, tmp_path: Path) -> None:
    out, gray = tmp_path / "model.octlet", np.random.default_rng(0).integers(0, 255, (80, 90), np.uint8)
    assert main(["export", str(tiny_run), "--out", str(out), "--second-look", "1"]) == 0
    bundle = open_bundle(out)
    assert bundle.manifest.second_look == 1
    assert "with no class of probability 1 is looked at once more, mirrored" in bundle.read(CARD).decode()
    predictor = Predictor.open(out)
    prepared = predictor.prepare(gray)
    mirrored = replace(prepared, pixels=prepared.pixels[:, ::-1])
    looks = [predictor.compute([each]).logits for each in (prepared, mirrored)]
    assert np.abs(looks[0] - looks[1]).max() > 1e-3
    np.testing.assert_allclose(predictor.run([gray]).logits, np.mean(looks, axis=0), atol=1e-6)
    assert verify(out).passed
    assert main(["export", str(tiny_run), "--out", str(out), "--second-look", "1.5"]) == 2


def test_a_prior_shift_moves_logits_and_maps_by_its_closed_form(tiny_run: Path, tmp_path: Path) -> None:
    counts = {"CNV": 10, "DME": 30, "DRUSEN": 20, "NORMAL": 40}
    trained = load_run(tiny_run)
    save_run(tmp_path / "run", trained.net, {**trained.meta, "data": {"per_class": counts}})
    gray = np.random.default_rng(0).integers(0, 255, (80, 90)).astype(np.uint8)
    scores = []
    for tau in (0.0, 0.5):
        export_run(tmp_path / "run", tmp_path / "model.octlet", prior_shift=tau)
        scores.append(Predictor.open(tmp_path / "model.octlet").run([gray]))
    moved = -0.5 * np.log(np.array([0.1, 0.3, 0.2, 0.4]))
    np.testing.assert_allclose(scores[1].logits - scores[0].logits, moved[None], atol=1e-4)
    np.testing.assert_allclose((scores[1].cam - scores[0].cam).mean((2, 3)), moved[None], atol=1e-4)
    with pytest.raises(ModelFileError, match="every class"):
        export_run(tiny_run, tmp_path / "model.octlet", prior_shift=0.5)
    shifted = load_run(tmp_path / "run")
    shift_prior(shifted, 0.5, tmp_path)
    save_run(tmp_path / "run", shifted.net, shifted.meta)
    export_run(tmp_path / "run", tmp_path / "model.octlet")
    again = Predictor.open(tmp_path / "model.octlet").run([gray])
    np.testing.assert_allclose(again.logits, scores[1].logits, atol=1e-4)
    assert open_bundle(tmp_path / "model.octlet").manifest.training["prior_shift"] == 0.5
    with pytest.raises(UsageError, match=r"already shifted, by 0\.5"):
        export_run(tmp_path / "run", tmp_path / "model.octlet", prior_shift=0.5)
