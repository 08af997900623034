"""Run a model file on this machine, without torch."""
