"""Shape and type of the windows that are gathered, and of the crops on disk."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harpy_core.config.crops import Codec, CropSettings
from harpy_core.errors import InputError
from harpy_core.extract.views import gathered, views_of
from harpy_core.instances.finding import Instances
from harpy_core.raster.raster import Raster
from harpy_core.raster.reading import delivered
from harpy_core.running.tasks import tile_edges
from harpy_core.tiles.grid import regular_step

LARGEST_CHUNK = 2**31 - 1 - 2**10
"""Bytes that Blosc takes at most, less its header."""


@dataclass(frozen=True, slots=True)
class CropLayout:
    """Shape of the gathered windows, of which the stored crops are made.

    Attributes
    ----------
    instances, channels, depth, diameter
        Number of windows, and of each window's channels, z planes and pixels on a side, or rows and
        columns.
    chunk, group
        Crops and channels of one chunk.
    batch
        Crops of one file: one chunk, or a shard of several.
    pixels
        NumPy name of the image's pixel type.
    dtype
        NumPy name of the stored type.
    scale
        Factor of the stored pixels; None leaves them as they are.
    codec
        Compression of the chunks.
    mask
        Whether each crop has a mask, or also that of its neighbours.
    """

    instances: int
    channels: int
    depth: int
    diameter: int | tuple[int, int]
    chunk: int
    group: int
    batch: int
    pixels: str
    dtype: str
    scale: float | None
    codec: Codec
    mask: bool | Literal["neighbors"]

    @classmethod
    def of(cls, raster: Raster, settings: CropSettings, instances: Instances) -> CropLayout:
        """Decide the layout of an image's crops from settings.

        Raises
        ------
        InputError
            A chunk would be larger than codecs can take.
        """
        edges, spatial = tile_edges(raster)
        pixels = str(np.dtype(raster.image.dtype).newbyteorder("="))
        views = views_of(settings, spatial[0][-1])
        depth, height, width = gathered(views)
        layout = cls(
            instances=len(instances),
            channels=len(raster.channels),
            depth=depth,
            # One number where it is one, as it is part of the digest of crops.
            diameter=height if height == width else (height, width),
            chunk=settings.batch_size,
            group=regular_step(edges),
            batch=settings.batch,
            pixels=pixels,
            dtype=settings.dtype or pixels,
            scale=settings.scale,
            codec=settings.codec,
            mask="neighbors" if settings.neighbor_mask else settings.extract_mask,
        )
        # Windows that are interpolated wait in the image's type, and are larger than their crops.
        wide = [view.size for view in views] + [layout.size] * (not views[0].plain)
        kinds = [layout.dtype, layout.pixels][: 1 + (not views[0].plain)]
        crop = max(map(math.prod, wide)) * layout.group * max(np.dtype(k).itemsize for k in kinds)
        if crop > LARGEST_CHUNK:
            raise InputError(
                f"diameter = {settings.diameter}: what is gathered for a crop would have {crop:,} "
                f"bytes, and codecs take at most {LARGEST_CHUNK:,}: give a smaller one, or a finer "
                "resolution"
            )
        if crop * layout.chunk > LARGEST_CHUNK:
            raise InputError(
                f"batch_size = {layout.chunk}: a chunk would have {crop * layout.chunk:,} bytes, "
                f"and codecs take at most {LARGEST_CHUNK:,}: give at most {LARGEST_CHUNK // crop}"
            )
        return layout

    @property
    def window(self) -> int:
        """Pixels of one channel of one crop."""
        return math.prod(self.size)

    @property
    def size(self) -> tuple[int, int, int]:
        """Planes, rows and columns of a crop."""
        sides = 2 * (self.diameter,) if isinstance(self.diameter, int) else self.diameter
        return self.depth, *sides

    @property
    def sharded(self) -> bool:
        """Whether a file holds several chunks."""
        return self.batch > self.chunk

    def arrays(self) -> dict[str, tuple[int, int, np.dtype]]:
        """Channels, channels in a chunk and stored type of each kind of window, by name."""
        found = {"image": (self.channels, self.group, np.dtype(self.dtype))}
        if self.mask:
            channels = 2 if self.mask == "neighbors" else 1
            found["mask"] = (channels, channels, np.dtype(np.uint8))
        return found

    def gathered(self, array: str) -> np.dtype:
        """Type in which the pixels of a kind of window are gathered, and wait to be joined."""
        return delivered(np.dtype(self.pixels)) if array == "image" else np.dtype(np.uint8)

    def stored(self, array: str, crops: np.ndarray) -> np.ndarray:
        """Convert gathered pixels to stored ones: multiplied in float64, and rounded once."""
        dtype = self.arrays()[array][2]
        if array != "image" or self.scale is None:
            return crops.astype(dtype, copy=False)
        if crops.dtype.kind in "iu" and crops.dtype.itemsize <= 2:
            unsigned = np.dtype(f"u{crops.dtype.itemsize}")
            every = np.arange(1 << (8 * unsigned.itemsize), dtype=unsigned).view(crops.dtype)
            table: np.ndarray = (every.astype(np.float64) * self.scale).astype(dtype)
            return table.take(crops.view(unsigned))
        found = np.empty(crops.shape, dtype)
        with np.errstate(over="ignore"):
            for some, crop in zip(found, crops, strict=True):
                some[...] = crop.astype(np.float64) * self.scale
                if crops.dtype.kind == "f":
                    _refuse_infinite(some, crop, self.scale)
        return found


def _refuse_infinite(stored: np.ndarray, crop: np.ndarray, scale: float) -> None:
    """Refuse pixels that a scale makes too large for the type that they are stored in."""
    lost = np.isinf(stored) & np.isfinite(crop)
    if lost.any():
        value, largest = float(np.abs(crop[lost]).max()), float(np.finfo(stored.dtype).max)
        raise InputError(
            f"scale = {scale}: a pixel of {value:g} times that is too large for {stored.dtype}, "
            f"whose largest is {largest:g}; give at most {largest / value:g}"
        )


def refuse_overflow(settings: CropSettings, pixels: np.dtype) -> None:
    """Refuse a scale by which pixels of a type may become too large.

    Raises
    ------
    InputError
        They may; the message gives the largest scale that fits.
    """
    if settings.dtype is None or settings.scale is None or pixels.kind not in "iu":
        return
    largest = float(np.finfo(settings.dtype).max)
    if np.iinfo(pixels).max * settings.scale > largest:
        raise InputError(
            f"scale = {settings.scale}: {pixels} pixels times that may be too large for "
            f"{settings.dtype}, whose largest is {largest:g}; give at most "
            f"{largest / np.iinfo(pixels).max:g}"
        )
