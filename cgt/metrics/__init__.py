"""Measuring generated pictures against real ones; knows nothing of training."""
