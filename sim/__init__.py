"""Predict how distributed training will run on a GPU cluster."""

__version__ = "0.1.0"
