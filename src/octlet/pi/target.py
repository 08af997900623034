"""The machine that a package is for: its Python, its processor, and what its tools call them."""

from dataclasses import dataclass

from octlet.core.errors import UsageError

# Python -> the newest glibc 2.x of systems that bring it: Raspberry Pi OS 12 and 13; between, Ubuntu 24.04.
GLIBC = {"3.11": 36, "3.12": 39, "3.13": 41}
_OLDEST_GLIBC = 17  # manylinux2014
DEBIAN = {"aarch64": "arm64", "x86_64": "amd64"}


@dataclass(frozen=True)
class Target:
    """A Linux machine with glibc.

    Attributes:
        python: "3.11", "3.12" or "3.13".
        machine: as `uname -m` says it: "aarch64" or "x86_64".

    Raises:
        UsageError: another Python or machine.
    """

    python: str
    machine: str = "aarch64"

    def __post_init__(self) -> None:
        if self.python not in GLIBC:
            rule = f"Octlet is not made for Python {self.python}"
            raise UsageError(rule, remedy=f"one of {', '.join(GLIBC)}: ask the device 'python3 -V'")
        if self.machine not in DEBIAN:
            rule = f"no packages are made for '{self.machine}'"
            raise UsageError(rule, remedy="a 64-bit system: 'uname -m' says aarch64 or x86_64")

    @property
    def tag(self) -> str:
        """For file names: "py311-aarch64"."""
        return f"py{self.python.replace('.', '')}-{self.machine}"

    @property
    def debian(self) -> str:
        """The processor as Debian calls it."""
        return DEBIAN[self.machine]

    def pip_options(self) -> list[str]:
        """Return what makes pip choose wheels that run there; newer platforms first (PEP 600)."""
        tags = [
            f"manylinux_2_{minor}_{self.machine}"
            for minor in range(GLIBC[self.python], _OLDEST_GLIBC - 1, -1)
        ]
        tags.append(f"manylinux2014_{self.machine}")
        options = ["--only-binary=:all:", "--implementation=cp", f"--python-version={self.python}"]
        return options + [f"--platform={tag}" for tag in tags]

    def markers(self) -> dict[str, str]:
        """Return the environment that dependencies are chosen by (PEP 508), as of that machine."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }
