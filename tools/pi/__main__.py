"""`python -m pi MODEL SCAN`, behind `make pi-check`."""

from pi.check import main

main()
