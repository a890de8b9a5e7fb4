"""Pixels of a tile and its runs, as partials are made from them."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np

from harpy_core.kernels.blosc import Encoded
from harpy_core.kernels.layout import Family, family_of
from harpy_core.tiles.runs import RunTable


@dataclass(frozen=True, slots=True)
class Tile:
    """Some channels of a tile, and the runs and sizes of its instances.

    Attributes
    ----------
    planes : (c, plane)
        Pixels, C-contiguous; still encoded for an engine that decodes them.
    runs
        Runs of the instances in a plane.
    pixels : (slots, 1)
        Number of each instance's pixels in the tile.
    kernels
        The engine's module.
    ignore_nan
        Leave NaN pixels out.
    """

    planes: np.ndarray | Encoded
    runs: RunTable
    pixels: np.ndarray
    kernels: ModuleType
    ignore_nan: bool

    @property
    def decoded(self) -> np.ndarray:
        """Return the planes, decoded by the CPU if they are still encoded."""
        return self.planes.pixels if isinstance(self.planes, Encoded) else self.planes

    @property
    def family(self) -> Family:
        """Family of the pixels' type."""
        return family_of(self.planes.dtype)

    @property
    def table(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The runs as kernels take them."""
        return self.runs.start, self.runs.length, self.runs.slot
