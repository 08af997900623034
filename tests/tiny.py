"""A network of 13,268 seeded random weights, as a run folder and as a model file.

`python tests/tiny.py FILE` writes the model file that OCTLET_TEST_MODEL names where torch is not installed.
"""

import sys
import tempfile
from pathlib import Path


def write_run(folder: Path) -> None:
    """Write the run; its batch norms do something."""
    import torch

    from octlet.models.resnet import build
    from octlet.models.spec import NetSpec, UnitSpec
    from octlet.train.checkpoint import save_run

    strides = {8: 1, 12: 2, 16: 2, 20: 2}
    stages = tuple((UnitSpec((width, width), stride, stride > 1),) for width, stride in strides.items())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        net = build(NetSpec("v1.5", 8, stages))
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.normal_(module.get_buffer("running_mean"))
                torch.nn.init.uniform_(module.get_buffer("running_var"), 0.5, 2.0)
    meta = {
        "spec": net.spec.as_dict(),
        "size": 64,
        "config": {"model": "tiny"},
        "epoch": 3,
        "metrics": {"val_loss": 1.25, "val_accuracy": 0.5},
        "data": {"fingerprint": "f" * 64, "scans": 12, "patients": 7, "per_class": {"CNV": 12}},
        "environment": {"git": None, "seed": 7},
    }
    save_run(folder, net, meta)


def write_model(run: Path, file: Path) -> None:
    """Export the run."""
    from octlet.export.package import export_run

    export_run(run, file, name="tiny")


def write_lying(model: Path, file: Path) -> Path:
    """Write the model file with a first golden vector whose logits are turned round; return it."""
    from octlet.core.bundle import GOLDEN, open_bundle, write_bundle
    from octlet.runtime.engine import Outputs
    from octlet.runtime.verify import GoldenVector, dump_golden, read_golden

    bundle = open_bundle(model)
    first, *rest = read_golden(bundle)
    outputs = Outputs(-first.outputs.logits, first.outputs.cam, first.outputs.embedding)
    wrong = dump_golden([GoldenVector(first.name, first.image, first.pixels, outputs), *rest])
    write_bundle(file, bundle.manifest, {n: bundle.read(n) for n in bundle.manifest.files} | {GOLDEN: wrong})
    return file


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        write_run(Path(folder, "run"))
        write_model(Path(folder, "run"), Path(sys.argv[1]))
