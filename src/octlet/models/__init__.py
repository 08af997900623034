"""Residual networks built from a plain spec."""
