"""The training step, loop and checkpoints."""
