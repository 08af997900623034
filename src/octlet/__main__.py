"""`octlet` and `python -m octlet`: the command line as a process of its own."""

import gc
import os
import sys
import warnings

from octlet.core.errors import OctletError


def run() -> None:
    """Run the words that this process was started with, and end it with the exit code."""
    quick = sys.argv[1:2] == ["predict"]  # one scan: the start and the end of Python take most of the time
    if quick:
        gc.set_threshold(100_000)  # or Python searches what it imports for garbage, dozens of times
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of tags beside the picture; damage to it is an error
    from octlet.cli.main import main

    code = main()
    if quick:
        _end(code)
    sys.exit(code)


def _end(code: int) -> None:
    """End the process without taking apart what was imported: files are written, and nothing else is open."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # closed by who started the process
            try:
                stream.flush()
            except OSError:  # told already, by who wrote into it
                code = code or OctletError.exit_code
    os._exit(code)


if __name__ == "__main__":
    run()
