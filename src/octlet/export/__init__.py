"""From a trained run to one model file."""
