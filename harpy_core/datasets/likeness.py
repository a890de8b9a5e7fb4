"""Likeness of sections in what the speed of a job depends on.

That is the spread of the pixels, how well they compress, and the number and size of the cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numcodecs import Blosc, Zstd

PERCENTILES = (1, 50, 99)


@dataclass(frozen=True, slots=True)
class Measures:
    """Figures of a section.

    Attributes
    ----------
    percentiles : (channels, 3)
        Pixel values of the 1st, 50th and 99th percentile.
    lz4, zstd : (channels,)
        Raw bytes of a channel per compressed byte: Blosc LZ4 with bit shuffle, and Zstandard at
        its default level.
    cells_per_megapixel
        Cells in a million pixels.
    areas : (cells,)
        Pixels of each cell.
    covered
        Fraction of the pixels that lie in a cell.
    """

    percentiles: np.ndarray
    lz4: np.ndarray
    zstd: np.ndarray
    cells_per_megapixel: float
    areas: np.ndarray
    covered: float

    def figures(self) -> dict[str, np.ndarray]:
        """Figures by which sections are compared: a value per channel, or one per section."""
        spread = self.areas.std() / self.areas.mean()
        channels = {f"percentile {p}": self.percentiles[:, i] for i, p in enumerate(PERCENTILES)}
        return {
            **channels,
            "LZ4 ratio": self.lz4,
            "zstd ratio": self.zstd,
            "cells per megapixel": np.array([self.cells_per_megapixel]),
            "median area": np.array([np.median(self.areas)]),
            "spread of areas": np.array([spread]),
            "covered": np.array([self.covered]),
        }


def measure(image: np.ndarray, labels: np.ndarray) -> Measures:
    """Measure a section.

    Parameters
    ----------
    image
        Pixels, (c, y, x), of an integer type.
    labels
        Labels, (y, x); 0 is background.
    """
    areas = np.unique(labels[labels > 0], return_counts=True)[1]
    planes = [np.ascontiguousarray(plane) for plane in image]
    blosc, zstd = Blosc("lz4", 5, Blosc.BITSHUFFLE), Zstd(0)
    return Measures(
        percentiles=np.array([np.percentile(plane, PERCENTILES) for plane in planes]),
        lz4=np.array([plane.nbytes / len(blosc.encode(plane)) for plane in planes]),
        zstd=np.array([plane.nbytes / len(zstd.encode(plane)) for plane in planes]),
        cells_per_megapixel=1e6 * len(areas) / labels.size,
        areas=areas,
        covered=float(areas.sum()) / labels.size,
    )
