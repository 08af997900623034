"""The service under a real systemd: hardened as it is on a device, watched, upgraded, and put back.

systemd runs as the first process of namespaces, on this machine's own system and processor: an emulator knows
no seccomp. Its namespace owns neither the memory controller nor the network's filter, so MemoryMax and
IPAddressDeny are read but hold nothing here.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from octlet.core.errors import OctletError, UsageError
from pi.sandbox import map_owners

_BOOT = """
read -r _
mount -t proc none "$ROOT/proc"
mount -t sysfs none "$ROOT/sys" 2>/dev/null || mount --rbind /sys "$ROOT/sys"
mount --rbind /dev "$ROOT/dev"
mount -t cgroup2 none "$ROOT/sys/fs/cgroup"
mount -t tmpfs none "$ROOT/run"
mount -t tmpfs none "$ROOT/tmp"
export PATH=/usr/sbin:/usr/bin:/sbin:/bin container=octlet
exec chroot "$ROOT" /lib/systemd/systemd --unit=octlet-check.service
"""
_UNIT = """\
[Unit]
Wants=octlet-serve.service
After=octlet-serve.service
[Service]
Type=oneshot
TimeoutStartSec=600
ExecStart=/usr/bin/python3 /check.py
ExecStopPost=/usr/bin/systemctl poweroff --force --force
"""
# Runs inside; writes what it saw as JSON, one line a row: what, whether it held, what was seen, seconds.
_CHECK = r"""
import json, os, signal, subprocess, time, urllib.request

def show(*names):
    command = ["systemctl", "show", "octlet-serve", "-p", ",".join(names)]
    return dict(line.split("=", 1) for line in subprocess.check_output(command, text=True).splitlines())

def ask(path, data=None):
    url, kind = "http://127.0.0.1:8000" + path, {"Content-Type": "image/png"}
    request = urllib.request.Request(url, data=data, headers=kind)
    return json.load(urllib.request.urlopen(request, timeout=60))

def until(wanted, seconds):
    for _ in range(seconds):
        if wanted():
            return True
        time.sleep(1)
    return False

def row(what, act):
    began = time.monotonic()
    try:
        held, seen = act()
    except Exception as error:
        held, seen = False, repr(error)
    with open("/rows", "a") as file:
        file.write(json.dumps([what, bool(held), str(seen), round(time.monotonic() - began)]) + "\n")

def starts():
    active = until(lambda: show("ActiveState")["ActiveState"] == "active", 30)
    told = show("ActiveState", "User", "NRestarts", "Result")
    return active and told["NRestarts"] == "0", told

def confined():
    status = open("/proc/%s/status" % show("MainPID")["MainPID"]).read()
    lines = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    told = {name: lines[name] for name in ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp")}
    return told == dict(CapEff="0" * 16, CapBnd="0" * 16, NoNewPrivs="1", Seccomp="2"), told

def answers():
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    health, told = ask("/api/health"), ask("/api/predict", open("/scan", "rb").read())
    return health["verified"], "%s, version %s" % (told["predictions"][0]["label"], health["version"])

def watched():
    before = show("WatchdogTimestampMonotonic")
    return until(lambda: show("WatchdogTimestampMonotonic") != before, 40), show("ActiveState", "NRestarts")

def replaced():
    pid = show("MainPID")["MainPID"]
    os.kill(int(pid), signal.SIGSTOP)
    again = {"ActiveState": "active", "NRestarts": "1"}
    held = until(lambda: show("ActiveState", "NRestarts") == again, 90)
    return held and show("MainPID")["MainPID"] != pid, show("ActiveState", "NRestarts")

def install(name):
    script = "rm -rf /root/p; mkdir /root/p; tar -x -f /%s.tar -C /root/p; sh /root/p/*/install.sh" % name
    done = subprocess.run(["sh", "-euc", script], capture_output=True, text=True)
    return done.returncode, done.stderr.strip().splitlines()[-1]

def upgraded():
    code, told = install("new")
    return code == 0 and "new" and ask("/api/health")["verified"], told

def put_back():
    code, told = install("silent")
    return code == 1 and "back to" in told and ask("/api/health")["verified"], told

row("systemd starts it, as its own user", starts)
row("no capability, no new privilege, a filter of system calls", confined)
row("it answers on loopback", answers)
row("the watchdog hears of it", watched)
row("the watchdog replaces a server that stands still", replaced)
row("an upgrade restarts it", upgraded)
row("a version that does not start: the one before runs again", put_back)
"""


@contextmanager
def _cgroup() -> Iterator[Path]:
    """Yield a new control group of version 2, in which systemd may keep its own."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    places = [Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"]
    if not places:
        raise UsageError("no control groups of version 2 are mounted here", remedy="see systemd(1)")
    group = places[0] / "octlet-check"
    group.mkdir(exist_ok=True)
    try:
        yield group
    finally:
        folders = sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True)
        with suppress(OSError):  # empty ones only; the processes are gone
            for folder in (*folders, group):
                folder.rmdir()


def run_service(
    root: Path, packages: Path, scan: Path, *, seconds: int = 500
) -> list[tuple[str, bool, str, int]]:
    """Boot systemd in a root in which a package is installed; return rows as of `pi.check.Row`.

    Args:
        root: over this machine's own system.
        packages: with `new.tar`, and `silent.tar`, whose server never tells that it is ready.
        scan: to classify.
        seconds: after which it is stopped.

    Raises:
        UsageError: this machine has no systemd, or no control groups for it.
        OctletError: nothing was done in that time.
    """
    if not Path("/lib/systemd/systemd").exists():
        raise UsageError("no systemd here", remedy="apt install systemd")
    for name in ("new.tar", "silent.tar"):
        shutil.copy(packages / name, root / name)
    shutil.copy(scan, root / "scan")
    (root / "check.py").write_text(_CHECK)
    (root / "etc/systemd/system/octlet-check.service").write_text(_UNIT)
    words = ["unshare", "--user", "--mount", "--pid", "--cgroup", "--uts", "--ipc", "--net", "--fork"]
    enter = ["sh", "-euc", 'echo $$ >"$0/cgroup.procs"; exec "$@"']
    with _cgroup() as group:
        process = subprocess.Popen(
            [*enter, group, *words, "--kill-child", "sh", "-euc", _BOOT],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={"ROOT": str(root), "PATH": os.environ["PATH"]},
        )
        map_owners(process)
        try:
            said = process.communicate(timeout=seconds)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            said = process.communicate()[1]
    rows = root / "rows"
    if not rows.exists():
        raise OctletError(f"systemd did not get as far as the service: {said.strip()[-200:]}")
    told: list[Any] = [json.loads(line) for line in rows.read_text().splitlines()]
    return [(what, held, seen, spent) for what, held, seen, spent in told]
