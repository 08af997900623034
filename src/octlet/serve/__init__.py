"""Predictions over HTTP, from a model file on this machine."""
