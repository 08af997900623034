"""The training loop, its augmentation and its checkpoints."""
