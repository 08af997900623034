"""Octlet on an emulated Cortex-A76: the same answers as on x86, and the instructions they take.

debian.py      Debian packages, unpacked without installing anything
userland.py    an aarch64 root, Octlet's wheel and its dependencies, and a Python to run them
agreement.py   predictions of two machines, compared
check.py       `make arm`
counting.py    instructions of a prediction from the instructions of processes
count.py       `make arm-count`, with insn_count.c (QEMU's side) and guest_predict.py (the guest's side)
"""
