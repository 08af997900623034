"""What systemd is told: ready, stopping, alive. Without NOTIFY_SOCKET nothing is said.

The protocol is sd_notify(3)'s: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

import contextlib
import os
import socket

WAIT = 1.0  # seconds


def notify(state: str) -> None:
    """Send "READY=1" or the like; what cannot be delivered is dropped, as sd_notify(3) recommends."""
    place = os.environ.get("NOTIFY_SOCKET", "")
    if not place.startswith(("/", "@")):
        return
    address = "\0" + place[1:] if place.startswith("@") else place  # "@": Linux's abstract names
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(WAIT)  # systemd's queue may be full, and the caller must not stand still
        sender.connect(address)
        sender.send(state.encode())


def watchdog_seconds() -> float | None:
    """Return within which time systemd wants a sign of life of this process; None where it wants none."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    told = os.environ.get("WATCHDOG_USEC", "")
    return int(told) / 1e6 if told.isdecimal() and int(told) else None
