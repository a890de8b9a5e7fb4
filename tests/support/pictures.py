"""Pictures that hold more than an empty page."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np


def assert_picture(path: Path) -> np.ndarray:
    """The picture's pixels; it must hold more than an empty page."""
    assert path.read_bytes().startswith(b"\x89PNG")
    pixels = matplotlib.image.imread(path)
    some = pixels[::7, ::7].reshape(-1, pixels.shape[-1])
    assert len(np.unique(some, axis=0)) > 10
    return pixels
