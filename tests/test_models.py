import json
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from octlet.core.errors import InputError, ModelFileError, UsageError
from octlet.models.resnet import ResNet, build
from octlet.models.spec import MODELS, NetSpec, UnitSpec, named_spec
from octlet.models.weights import fold_stem, load_pretrained

GOLDEN_FOLDER = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN_FOLDER))
import torchvision_resnet as reference  # noqa: E402

GOLDEN = json.loads((GOLDEN_FOLDER / "torchvision_resnet.json").read_text())


@pytest.fixture(scope="module", autouse=True)
def _seeded():
    torch.manual_seed(0)


def reference_net(name: str, channels: int = 3) -> ResNet:
    net = build(named_spec(name, classes=reference.CLASSES, channels=channels)).eval()
    shapes = {key: torch.empty(shape) for key, shape in GOLDEN[name]["shapes"].items()}
    state = reference.closed_form(shapes)
    if channels == 1:
        state["conv1.weight"] = fold_stem(state["conv1.weight"])
    net.load_state_dict(state, strict=True)
    return net


@pytest.mark.parametrize("name", reference.NAMES)
def test_a_torchvision_state_dict_loads_strictly_and_gives_torchvisions_outputs(name):
    net = reference_net(name)
    assert {k: list(t.shape) for k, t in net.state_dict().items()} == GOLDEN[name]["shapes"]
    with torch.inference_mode():
        logits = net(reference.scans(3)).logits
    wanted = torch.tensor(GOLDEN[name]["logits"])
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max().item())


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_folded_stem_gives_the_same_outputs_for_gray_scans(name):
    with torch.inference_mode():
        colour = reference_net(name, 3)(reference.scans(3)).logits
        gray = reference_net(name, 1)(reference.scans(1)).logits
    torch.testing.assert_close(gray, colour, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_the_head_is_the_pooled_activation_map_and_the_linear_layer_of_the_embedding(name):
    net = build(named_spec(name)).eval()
    with torch.inference_mode():
        out = net(torch.randn(2, 1, 64, 96))
        torch.testing.assert_close(out.logits, out.cam.mean((2, 3)))
        torch.testing.assert_close(out.logits, net.fc(out.embedding), rtol=1e-4, atol=1e-5)
    assert out.cam.shape == (2, 4, 2, 3)


@pytest.mark.parametrize("name", MODELS)
def test_a_spec_survives_json(name):
    spec = named_spec(name)
    assert NetSpec.from_dict(json.loads(json.dumps(spec.as_dict()))) == spec


def test_a_pruned_spec_builds():
    units = (UnitSpec((3, 5, 20), 1, True), UnitSpec((7, 2, 20), 1, False))
    for family in ("v1.5", "v2"):
        net = build(NetSpec(family, 6, (units,))).eval()
        assert net(torch.randn(1, 1, 32, 32)).embedding.shape == (1, 20)


def test_unknown_names_and_specs_are_refused():
    with pytest.raises(UsageError, match="resnet19"):
        named_spec("resnet19")
    with pytest.raises(ModelFileError):
        NetSpec.from_dict({"family": "v2"})


def plain_v2(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The forward pass as the weights' description states it, in plain functions: (N, 1024) embeddings."""
    x = F.conv2d(x, weights["conv1.weight"], weights["conv1.bias"], stride=2, padding=3)
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    for layer, units in ((1, 3), (2, 4), (3, 23)):
        for unit in range(units):
            w = {
                k.removeprefix(f"layer{layer}.{unit}."): t
                for k, t in weights.items()
                if k.startswith(f"layer{layer}.{unit}.")
            }
            stride = 2 if unit == units - 1 else 1
            p = F.relu(x * w["preact.weight"].view(1, -1, 1, 1) + w["preact.bias"].view(1, -1, 1, 1))
            identity = x[..., ::stride, ::stride]
            if "shortcut.weight" in w:
                identity = F.conv2d(p, w["shortcut.weight"], w["shortcut.bias"], stride=stride)
            y = F.relu(F.conv2d(p, w["conv1.weight"], w["conv1.bias"]))
            y = F.relu(F.conv2d(y, w["conv2.weight"], w["conv2.bias"], stride=stride, padding=1))
            x = F.conv2d(y, w["conv3.weight"], w["conv3.bias"]) + identity
    x = F.relu(x * weights["norm.weight"].view(1, -1, 1, 1) + weights["norm.bias"].view(1, -1, 1, 1))
    return x.mean((2, 3))


def v2_weights() -> dict[str, torch.Tensor]:
    """Random weights under the key names and shapes of the shared file."""
    state = build(named_spec("resnet101v2")).state_dict()
    weights = {}
    for key, tensor in state.items():
        if key.startswith("fc."):
            continue
        scale = 1.0 if "preact.weight" in key or key == "norm.weight" else 0.1
        fan = tensor[0].numel() if tensor.ndim == 4 else 1
        values = torch.randn(tensor.shape) * (scale / fan**0.5 if tensor.ndim == 4 else 0.1)
        weights[key] = (
            values.flatten() if tensor.ndim == 4 and "conv" not in key and "short" not in key else values
        )
    return weights


def test_v2_loads_and_computes_what_its_weights_file_describes(tmp_path):
    weights = v2_weights()
    save_file({k: t.half() for k, t in weights.items()}, tmp_path / "v2.safetensors")
    net = build(named_spec("resnet101v2")).eval()
    report = load_pretrained(net, tmp_path / "v2.safetensors")
    assert report.fresh == ("fc.bias", "fc.weight")
    assert len(report.loaded) == len(weights)
    assert not report.unused
    x = reference.scans(1)
    with torch.inference_mode():
        wanted = plain_v2({k: t.half().float() for k, t in weights.items()}, x)
        torch.testing.assert_close(net(x).embedding, wanted, rtol=1e-4, atol=1e-4)


def test_the_fourth_stage_is_reported_as_fresh(tmp_path):
    save_file(v2_weights(), tmp_path / "v2.safetensors")
    net = build(named_spec("resnet101v2-stage4"))
    report = load_pretrained(net, tmp_path / "v2.safetensors")
    assert {key.partition(".")[0] for key in report.fresh} == {"layer4", "norm", "fc"}
    assert report.unused == ("norm.bias", "norm.weight")


def test_a_three_channel_file_with_another_head_fills_all_but_the_head(tmp_path):
    state = reference_net("resnet18").state_dict()
    save_file(state, tmp_path / "imagenet.safetensors")
    net = build(named_spec("resnet18"))
    report = load_pretrained(net, tmp_path / "imagenet.safetensors")
    assert report.fresh == ("fc.bias", "fc.weight")
    torch.testing.assert_close(net.conv1.weight, state["conv1.weight"].sum(1, keepdim=True))


def test_bad_weight_files_are_refused(tmp_path):
    net = build(named_spec("resnet18"))
    with pytest.raises(InputError, match="no such"):
        load_pretrained(net, tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("these are no weights")
    with pytest.raises(InputError, match="not a safetensors file"):
        load_pretrained(net, tmp_path / "text.safetensors")
    save_file({"encoder.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="none of its tensors"):
        load_pretrained(net, tmp_path / "other.safetensors")
