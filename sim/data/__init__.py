"""Data files that ship with the package: catalogue, constants, published rows, with sources."""

from pathlib import Path

DATA = Path(__file__).parent
