"""Rounding: simulated, calibrated, trained, and turned into integers."""
