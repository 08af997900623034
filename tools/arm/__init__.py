"""Octlet on emulated CPUs: the same answers on a Cortex-A76 and a Haswell, and the A76's instructions.

debian.py      Debian packages, unpacked without installing anything
userland.py    an aarch64 root, Octlet's wheel and its dependencies, and a Python to run them
agreement.py   predictions of two machines, compared
check.py       `make arm`
haswell.py     `make haswell`
counting.py    instructions of a prediction from the instructions of processes
count.py       `make arm-count`, with insn_count.c (QEMU's side) and guest_predict.py (the guest's side)
"""
