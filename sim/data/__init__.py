"""Data files that ship with the package: catalogue, constants with their sources, published rows."""

from pathlib import Path

DATA = Path(__file__).parent
