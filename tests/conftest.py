"""Fixtures that every test file may use."""

import subprocess
import sys
from collections.abc import Callable

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def octlet() -> Run:
    """Run the real command in a process of its own; never raises on a non-zero exit."""

    def run(*args: object, **kwargs: object) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "octlet", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=280, **kwargs)  # type: ignore[call-overload,no-any-return]

    return run
