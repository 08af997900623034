"""A root of another architecture in namespaces of its own, on a disk whose power can be cut.

The kernel runs foreign programs on an emulator (binfmt_misc) for this user namespace alone (Linux 6.7 on), so
nothing of the machine is changed. Root is needed: a root file system has files of more than one owner.
"""

import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from octlet.core.errors import OctletError, UsageError

_AARCH64 = (
    r":octlet:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:"
)
# Waits until its owners are mapped; then registers the emulator, mounts what programs expect, goes in.
_ENTER = """
read -r _
if [ -n "$REGISTER" ]; then
    mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
    printf '%s' "$REGISTER" >/proc/sys/fs/binfmt_misc/register
fi
mount -t proc none "$ROOT/proc"
mount --rbind /dev "$ROOT/dev"
mount --rbind /sys "$ROOT/sys"
if [ -n "$CPUINFO" ]; then mount --bind "$CPUINFO" "$ROOT/proc/cpuinfo"; fi
for folder in $BIND; do
    mkdir -p "$ROOT/${folder##*/}"
    mount --bind "$folder" "$ROOT/${folder##*/}"
done
unset REGISTER CPUINFO BIND
exec chroot "$ROOT" "$@"
"""
_CPU = (
    "processor\t: {n}\nBogoMIPS\t: 108.00\n"
    "Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop "
    "asimddp\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
    "CPU variant\t: 0x4\nCPU part\t: 0xd0b\nCPU revision\t: 1\n\n"
)


def need_root() -> None:
    """Raise UsageError where this cannot work, and part this process's mounts from the machine's."""
    if os.geteuid() != 0:
        raise UsageError(
            "a sandbox with its own disk needs root", remedy="run it as root, in a virtual machine"
        )
    for tool in ("unshare", "mkfs.ext4", "mount", "chroot"):
        if shutil.which(tool) is None:
            raise UsageError(f"no '{tool}' here", remedy="apt install util-linux e2fsprogs")
    if ctypes.CDLL(None).unshare(0x00020000):  # CLONE_NEWNS
        raise UsageError("the kernel gives no mount namespace", remedy="run it in a virtual machine")
    run("mount", "--make-rprivate", "/")


def run(*words: object) -> str:
    """Run a command here; return its stdout, OctletError if it fails."""
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise OctletError(f"'{' '.join(map(str, words[:4]))}' failed: {done.stderr.strip()}")
    return done.stdout


@dataclass(frozen=True)
class Sandbox:
    """How to enter a root: the emulator for it (None: none is needed) and a folder for scratch files."""

    emulator: Path | None
    scratch: Path

    def start(
        self, root: Path, command: Sequence[object], bind: Sequence[Path] = (), **environment: str
    ) -> "subprocess.Popen[str]":
        """Start a command in a root; stdout and stderr are one text. Folders of `bind` lie under its `/`."""
        cpuinfo = ""
        if self.emulator:
            # ONNX Runtime crashes where /proc/cpuinfo tells of another CPU.
            (self.scratch / "cpuinfo").write_text("".join(_CPU.format(n=n) for n in range(4)))
            cpuinfo = str(self.scratch / "cpuinfo")
        settings = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C",
            "DEBIAN_FRONTEND": "noninteractive",
            "QEMU_CPU": "cortex-a76",
            "OMP_NUM_THREADS": "1",
            "REGISTER": f"{_AARCH64}{self.emulator}:F" if self.emulator else "",
            "ROOT": str(root),
            "CPUINFO": cpuinfo,
            "BIND": " ".join(map(str, bind)),
        }
        words = [
            "unshare",
            "--user",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-euc",
            _ENTER,
            "sh",
        ]
        process = subprocess.Popen(
            [*words, *map(str, command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=settings | environment,
        )
        map_owners(process)
        return process

    def run(
        self, root: Path, command: Sequence[object], bind: Sequence[Path] = (), **environment: str
    ) -> tuple[int, str]:
        """Run a command in a root to its end; return its exit code and what it said."""
        process = self.start(root, command, bind, **environment)
        said = process.communicate()[0]
        return process.returncode, said


def map_owners(process: "subprocess.Popen[str]") -> None:
    """Give a process's new user namespace all owners, and let it go on; it waits for a line on its stdin.

    The mapping is the parent's part, when the child has made the namespace.
    """
    mine = Path("/proc/self/ns/user").readlink()
    while Path(f"/proc/{process.pid}/ns/user").readlink() == mine:
        time.sleep(0.01)
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{process.pid}/{name}").write_text("0 0 65536")
    if process.stdin is not None:
        process.stdin.write("\n")
        process.stdin.close()
        process.stdin = None


class Disk:
    """A file system in a file, over a root that stays as it is; everything written goes to the file.

    What is in the file is what is on the disk: a copy of it is what a power cut would leave.
    """

    def __init__(self, folder: Path, lower: Path) -> None:
        self.folder, self.lower = folder, lower
        self.image = folder / "disk.img"

    def make(self, megabytes: int) -> None:
        """Write an empty one."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        with self.image.open("wb") as file:
            file.truncate(megabytes * 1_000_000)
        run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0", self.image)

    @contextmanager
    def mounted(self, image: Path | None = None) -> Iterator[Path]:
        """Yield a root: the one below, and over it what is on the disk, or on a copy of it."""
        disk, root = self.folder / "disk", self.folder / "root"
        for each in (disk, root):
            each.mkdir(exist_ok=True)
        run("mount", "-o", "loop", image or self.image, disk)
        try:
            for name in ("upper", "work"):
                (disk / name).mkdir(exist_ok=True)
            layers = f"lowerdir={self.lower},upperdir={disk}/upper,workdir={disk}/work"
            run("mount", "-t", "overlay", "overlay", "-o", layers, root)
            try:
                yield root
            finally:
                run("umount", root)
        finally:
            run("umount", disk)

    def cut(self, name: str) -> Path:
        """Copy what is on the disk right now, as a power cut would leave it: the worst that it may leave.

        Another program's fsync has just brought the journal to the disk, all names and links with it; the
        contents of files that nobody synced are still in memory only.
        """
        with (self.folder / "disk/journal").open("w") as file:
            file.write(name)
            file.flush()
            os.fsync(file.fileno())
        copy = self.folder / f"{name}.img"
        run("cp", "--sparse=always", self.image, copy)
        return copy
