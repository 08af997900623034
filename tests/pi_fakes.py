"""Wheels of a few lines and a model file of a few bytes: a package whose content does not matter."""

import platform
import sys
import zipfile
from pathlib import Path

from octlet.core.bundle import EngineFile, Manifest, Preprocessing, write_bundle

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
MACHINE = platform.machine()
OTHER = {"x86_64": "aarch64", "aarch64": "x86_64"}.get(MACHINE, "aarch64")
ROW = {
    "engine": "onnxruntime",
    "threads": 1,
    "p50_ms": 12.5,
    "p95_ms": 13.0,
    "scans_per_second": 80.0,
    "load_s": None,
    "cold_start_s": None,
    "peak_bytes": None,
}
_ANSWERS = """
import json, sys
def main():
    verb = sys.argv[1]
    if verb == "verify":
        checks = [dict(name="logits", measured="off by 0", limit="by 1", passed=not FAULT)]
        print(json.dumps(dict(passed=not FAULT, checks=checks, version="VERSION")))
        open(sys.argv[2]).close()
        return FAULT
    if verb == "benchmark":
        print(json.dumps(dict(rows=[ROW])))
    return 0
"""


def wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    files: dict[str, str] | None = None,
    requires: tuple[str, ...] = (),
) -> Path:
    """Write a pure wheel; `requires` are lines of Requires-Dist, "extra NAME" one of Provides-Extra."""
    info = f"{name}-{version}.dist-info"
    lines = [
        f"Provides-Extra: {line.removeprefix('extra ')}"
        if line.startswith("extra ")
        else f"Requires-Dist: {line}"
        for line in requires
    ]
    contents = {f"{name}.py": ""} if files is None else dict(files)
    contents[f"{info}/METADATA"] = "\n".join(
        ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines, "", ""]
    )
    contents[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    contents[f"{info}/RECORD"] = ""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for each, text in contents.items():
            archive.writestr(zipfile.ZipInfo(each), text)
    return path


def octlet_wheel(folder: Path, version: str, fault: int = 0, requires: tuple[str, ...] = ()) -> Path:
    """Write an Octlet that answers; 'verify' ends with the exit code `fault`."""
    answers = _ANSWERS.replace("FAULT", str(fault)).replace("VERSION", version).replace("ROW", repr(ROW))
    files = {
        "octlet/__init__.py": "",
        "octlet/__main__.py": (
            "import sys\nfrom octlet.cli.main import main\n\n\ndef run():\n    sys.exit(main())\n\n\n"
            "if __name__ == '__main__':\n    run()\n"
        ),
        "octlet/cli/__init__.py": "",
        "octlet/serve/__init__.py": "",
        "octlet/serve/app.py": "",
        "octlet/serve/server.py": "",
        "octlet/cli/main.py": answers,
    }
    return wheel(folder, "octlet", version, files, ("extra serve", *requires))


def model(path: Path, name: str = "fake") -> Path:
    """Write a model file that is whole, of a network that is none."""
    manifest = Manifest(
        name=name,
        preprocessing=Preprocessing(64),
        engines={"onnxruntime": EngineFile("model.onnx")},
        network={},
        training={},
        metrics={},
        versions={},
        licence="none",
    )
    write_bundle(
        path, manifest, {"model.onnx": b"a network", "golden.npz": b"vectors", "README.md": b"# card\n"}
    )
    return path
