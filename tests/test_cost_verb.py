"""`octlet cost`, through the real command: a run, a model file, a name."""

import contextlib
import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from octlet.cli.main import main
from octlet.compress.cost import cost_of
from octlet.core.bundle import ONNX, open_bundle, write_bundle
from octlet.models.spec import MODELS, named_spec
from octlet.train.checkpoint import load_run, save_run


def command(*words: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["cost", *map(str, words)])
    return code, out.getvalue(), err.getvalue()


def result_of(*words: object) -> dict[str, Any]:
    code, out, err = command(*words, "--json")
    assert code == 0, err
    result: dict[str, Any] = json.loads(out)
    return result


@pytest.fixture(scope="module")
def integer_run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose record says that it is quantised; its tensors are not read."""
    run, out = load_run(tiny_run), tmp_path_factory.mktemp("integers")
    save_run(out, run.net, run.meta | {"quantization": {"method": "ptq", "exclude": ["layer4.*", "fc"]}})
    return out


@pytest.fixture(scope="module")
def integer_file(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file whose manifest says that it is quantised; its network is not read."""
    bundle, out = open_bundle(model_file), tmp_path_factory.mktemp("integers") / "model.octlet"
    quantization = {"method": "qat", "exclude": ["layer4.*", "fc"]}
    told = bundle.manifest.training | {"quantization": quantization, "integers": {}}
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    write_bundle(out, dataclasses.replace(bundle.manifest, training=told), files)
    return out


def test_a_run_a_file_and_a_name_are_counted(tiny_run, model_file, integer_run, integer_file):
    spec = load_run(tiny_run).net.spec
    for source, kind in ((tiny_run, "run"), (model_file, "model file")):
        result, cost = result_of(source, "--layers"), cost_of(spec, 64)
        assert (result["kind"], result["size"], result["quantised"]) == (kind, 64, False)
        assert result["layers"] == [dataclasses.asdict(layer) for layer in cost.layers]
        assert (result["macs"], result["parameters"]) == (cost.macs, cost.parameters)
        assert result["peak_activation_bytes"] == cost.peak_activation_bytes
        assert result["peak_layer"] == cost.peak.name
    for source in (integer_run, integer_file):
        result, cost = result_of(source), cost_of(spec, 64, quantised=True, exclude=("layer4.*", "fc"))
        assert (result["quantised"], result["exclude"]) == (True, ["layer4.*", "fc"])
        assert (result["weight_bytes"], result["layers"]) == (cost.weight_bytes, None)
        assert result["peak_activation_bytes"] == cost.peak_activation_bytes
    assert result_of("resnet101")["macs"] == cost_of(named_spec("resnet101"), 224).macs
    assert result_of(tiny_run, "--size", 96)["macs"] == cost_of(spec, 96).macs


def test_torchaos_linear_layer_is_counted_as_the_floats_that_it_is_stored_as(tiny_run, tmp_path):
    run = load_run(tiny_run)
    save_run(tmp_path, run.net, run.meta | {"quantization": {"method": "qat-linear", "exclude": []}})
    assert result_of(tmp_path)["weight_bytes"] == result_of(tiny_run)["weight_bytes"]


def test_a_model_file_shows_what_it_really_takes(model_file):
    result = result_of(model_file)
    assert result["file_bytes"] == model_file.stat().st_size
    assert result["network_bytes"] == len(open_bundle(model_file).read(ONNX))
    assert result["weight_bytes"] < result["network_bytes"] < result["file_bytes"]
    out = command(model_file)[1]
    assert f"{result['file_bytes']:,} bytes" in out


def test_the_table_has_every_layer_in_order_and_its_share(tiny_run, integer_run):
    code, out, err = command(tiny_run, "--layers")
    assert code == 0
    cost = cost_of(load_run(tiny_run).net.spec, 64)
    head, rows = out.split("activations kB")
    told = [line.split() for line in rows.splitlines()[2:]]
    assert [words[0] for words in told] == [layer.name for layer in cost.layers]
    assert [int(words[4]) for words in told] == [layer.parameters for layer in cost.layers]
    for column in (3, 5, 7):
        assert sum(float(words[column]) for words in told) == pytest.approx(100, abs=1)
    assert max(float(words[9]) for words in told) == 100
    assert f"{cost.weight_bytes:,} bytes" in head
    assert f"{cost.parameters:,}" in head
    assert f"next: octlet export {tiny_run}" in err
    out, err = command(integer_run)[1:]
    assert "8-bit integers but for layer4.*, fc" in out
    assert f"next: octlet cost {integer_run} --layers" in err


def test_every_name_is_counted():
    for name in MODELS:
        code, out, err = command(name, "--layers", "--size", 100)
        assert (code, f"next: octlet train --data DIR --model {name}" in err) == (0, True)
        assert "100 x 100" in out


def test_a_folder_comes_before_a_name(tiny_run, tmp_path, monkeypatch):
    run = load_run(tiny_run)
    save_run(tmp_path / "resnet101", run.net, run.meta)
    monkeypatch.chdir(tmp_path)
    assert result_of("resnet101")["kind"] == "run"


def test_wrong_sources_and_sizes_end_with_their_codes(model_file, tiny_run, tmp_path):
    run = load_run(tiny_run)
    for name, meta in (("sizeless", {"size": None}), ("shapeless", {"spec": {"family": "v2"}})):
        save_run(tmp_path / name, run.net, run.meta | meta)
    (tmp_path / "text").write_text("no model")
    cases = [
        (("resnet1001",), 3, "one of resnet18"),
        ((tmp_path,), 4, "no such checkpoint"),
        ((tmp_path / "text",), 4, "not a model file"),
        ((tmp_path / "absent.octlet",), 4, "no such model file"),
        ((tmp_path / "sizeless",), 4, "input size"),
        ((tmp_path / "shapeless",), 4, f"{tmp_path / 'shapeless'}: not a network specification"),
        ((model_file, "--size", 96), 2, "its input is 64 x 64"),
        ((tiny_run, "--size", 16), 2, "16 is not in the range"),
    ]
    for words, expected, told in cases:
        code, _, err = command(*words)
        assert (code, told in err) == (expected, True), (words, err)
    assert command(model_file, "--size", 64)[0] == 0


def test_names_and_model_files_need_no_torch(integer_file):
    """On a device, which has neither torch nor what comes with it."""
    script = (
        "import sys\n"
        "for name in ('torch', 'torchao', 'onnx', 'safetensors'): sys.modules[name] = None\n"
        "from octlet.cli.main import main\n"
        "sys.exit(main(['cost', 'resnet101']) or main(['cost', sys.argv[1], '--layers', '--json']))"
    )
    done = subprocess.run([sys.executable, "-c", script, integer_file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '"layer4.*"' in done.stdout
