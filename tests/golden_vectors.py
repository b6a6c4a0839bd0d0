"""Vectors of tests/golden, read whole."""

from pathlib import Path

import numpy as np


def load_golden(name):
    """Return the arrays of an .npz file by name."""
    with np.load(Path(__file__).parent / "golden" / name, allow_pickle=False) as saved:
        return dict(saved)
