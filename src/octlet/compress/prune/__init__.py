"""Channels, units and single weights, taken out step by step."""
