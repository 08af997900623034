"""Unpacks wheels into the virtual environment that runs this: what pip would do, where there is no pip.

Debian parts pip from Python, and a device offline cannot fetch it; a wheel of plain files is a zip archive.
Called as ``python -I unpack.py HOME WHEEL...``; HOME is the environment's folder once it is renamed.
"""

import compileall
import re
import sys
import sysconfig
import zipfile
from pathlib import Path

# Unpacked, but not compiled, for nobody runs it here: tests, and the tools that make and change ONNX models
NOT_COMPILED = re.compile("/tests?/|/onnxruntime/(quantization|tools|transformers)/")

COMMAND = """#!{home}/bin/python -I
from octlet.__main__ import run
run()
"""


def unpack(wheel: str, site: Path) -> None:
    """Unpack one wheel into `site`; ValueError for a name that another wheel has, or that leads elsewhere."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            parts = Path(name).parts
            if Path(name).is_absolute() or ".." in parts or parts[0].endswith(".data"):
                raise ValueError(f"{wheel}: not a plain file: {name}")
            if not name.endswith("/") and (site / name).exists():
                raise ValueError(f"{wheel}: a file that another wheel has, too: {name}")
        archive.extractall(site)


def main(home: str, *wheels: str) -> None:
    """Unpack all, compile what a service runs, which may write nothing, and write the command."""
    site = Path(sysconfig.get_paths()["purelib"])
    for wheel in wheels:
        unpack(wheel, site)
    compileall.compile_dir(site, quiet=2, stripdir=str(site), rx=NOT_COMPILED)
    command = Path(sys.prefix, "bin", "octlet")
    command.write_text(COMMAND.format(home=home))
    command.chmod(0o755)


if __name__ == "__main__":
    main(*sys.argv[1:])
