"""What each peer of `peers.py` makes of the same float model: its own format, its own rounding.

Every function takes a model file, the fold's calibration scans (float32 (N, 1, S, S) in -1..1, asked for only
where it rounds) and where to write, whole or not at all.
"""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octlet.core.bundle import ONNX, open_bundle
from octlet.core.errors import UsageError
from octlet.core.files import replacing, write_bytes
from octlet.runtime.engine import ENGINES, INPUT

Scans = NDArray[np.float32]
Calibration = Callable[[], Scans]


def float_run(model: Path, _: Calibration, out: Path) -> None:
    """Write the run that a model file was exported from as it was exported: with the file's prior shift."""
    from octlet.train.checkpoint import load_float_run, write_tensors
    from octlet.train.prior import shift_prior

    named = model.with_suffix("")
    run = named if named.is_dir() else model.parent / "train"
    trained = load_float_run(run)
    shift_prior(trained, open_bundle(model).manifest.training.get("prior_shift", 0.0), run)
    write_tensors(out, trained.net.state_dict(), trained.meta)


def onnx(model: Path, _: Calibration, out: Path) -> None:
    """Write a model file's ONNX entry."""
    write_bytes(out, open_bundle(model).read(ONNX))


def litert(model: Path, _: Calibration, out: Path) -> None:
    """Write a model file's network for LiteRT, as `octlet export --litert` makes it."""
    from octlet.export.litert import to_litert

    bundle = open_bundle(model)
    write_bytes(out, to_litert(bundle.read(ONNX), bundle.manifest.preprocessing.size).data)


def static(model: Path, calibration: Calibration, out: Path) -> None:
    """Round with ONNX Runtime's own static quantisation: QDQ, weights per channel, otherwise its defaults."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, scans: Scans) -> None:
            self._left = iter(scans)

        def get_next(self) -> dict[str, Scans] | None:
            scan = next(self._left, None)
            return None if scan is None else {INPUT: scan[None]}

    with tempfile.TemporaryDirectory() as folder, replacing(out) as temporary:
        network, ready = Path(folder, "float.onnx"), Path(folder, "ready.onnx")
        onnx(model, calibration, network)
        quant_pre_process(network, ready)
        scans = Reader(calibration())
        quantize_static(ready, temporary, scans, quant_format=QuantFormat.QDQ, per_channel=True)


def nncf(model: Path, calibration: Calibration, out: Path) -> None:
    """Round with NNCF's post-training quantisation at its defaults, into OpenVINO's own format."""
    for name, needed in {"OpenVINO": ENGINES["openvino"].package, "NNCF": "nncf"}.items():
        if find_spec(needed) is None:
            raise UsageError(f"{name} is not installed", remedy=f"pip install {needed}")
    os.environ["NNCF_CI"] = "1"  # otherwise it tells its makers of its use
    import nncf as compression
    import openvino

    bundle = open_bundle(model)
    size = bundle.manifest.preprocessing.size
    with _folder_beside(out.parent) as folder:
        onnx(model, calibration, folder / "float.onnx")
        network = openvino.Core().read_model(folder / "float.onnx")
        network.reshape([1, 1, size, size])
        scans = calibration()
        data = compression.Dataset([scan[None] for scan in scans])
        with contextlib.redirect_stdout(sys.stderr):  # its bars
            rounded = compression.quantize(network, data, subset_size=len(scans))
        (folder / "float.onnx").unlink()
        openvino.save_model(rounded, folder / out.name, compress_to_fp16=False)


@contextlib.contextmanager
def _folder_beside(target: Path) -> Iterator[Path]:
    """Yield a folder that is renamed to `target` when the block ends without an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield folder
        folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def bytes_of(network: Path) -> int:
    """Return the bytes of a network; OpenVINO has its weights in a second file."""
    files = [network, network.with_suffix(".bin")] if network.suffix == ".xml" else [network]
    return sum(file.stat().st_size for file in files)
