"""The device package on a whole Debian in a sandbox: installed, upgraded, cut off at every step, removed.

root.py     a Debian of another architecture, installed by its own dpkg
sandbox.py  namespaces in which its programs run on an emulator, a disk that can be cut off, a chroot
check.py    what is done there, as a table
"""
