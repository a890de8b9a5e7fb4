"""Description of an image and its labels, usable without opening them."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from harpy_core.config.addresses import address_trouble, options_trouble
from harpy_core.config.models import MissingChunks
from harpy_core.errors import InputError
from harpy_core.storage.manifest import write_json


@dataclass(frozen=True, slots=True)
class RasterInfo:
    """Places, shapes and types of an image and its labels.

    Attributes
    ----------
    uri
        Absolute path or URL of the store or TIFF.
    image
        Name of the image inside the store; None for a TIFF.
    labels
        Name of the labels inside the store, or the path of a label TIFF or Zarr array.
    channels
        Names of the channels in use, in order.
    image_shape, image_chunks
        Shapes (c, y, x) or (c, z, y, x), in pixels, with all channels of the file.
    image_dtype
        NumPy name of the pixel type, regardless of the byte order on disk.
    labels_shape, labels_chunks
        Shapes (y, x) or (z, y, x), in pixels.
    labels_dtype
        NumPy name of the label type.
    fingerprint
        Digest of the metadata, of the names, sizes and times of the files, and of the channels.
    level
        Resolution of a multiscale image and of its labels, by number or name; 0 is the finest.
    labels_level
        Resolution of the labels, likewise; None takes that of the image's shape.
    axes
        Names of the image's axes as they are stored; None takes those of the file.
    t
        Number of the time point, if there are several.
    label_connected
        Whether labels are a mask, whose connected pieces are the instances.
    labels_scale, labels_translation, labels_nearest
        Place of the labels on the image, as a user gave it.
    placing
        Bytes for each pixel of a tile while labels of another resolution are placed.
    labels_stored
        NumPy name of the type from which labels are computed, if they are not as they are stored.
    storage_options
        Options of fsspec for an address, by its protocol.
    cache
        Absolute path of the folder that keeps what is fetched from an address; None keeps nothing.
    rearranged
        Bytes of a chunk as it is stored, if its axes are moved, or some left out, or labels placed,
        when it is read.
    missing
        Treatment of a chunk that is not stored: see `strict`.
    named
        Names of all channels, if they were given rather than found in the file.
    files
        Digest of the files, whichever channels are in use; it is compared when the raster is opened
        again.
    numbers
        Numbers of the channels in use, ascending; None where all are.
    lazy
        Whether the arrays are Dask arrays: a task holds all channels of its tile.
    spacing
        Side of a pixel along (z, ) y and x of the labels in micrometres; None where the metadata do
        not say it.
    """

    uri: str
    image: str | None
    labels: str | None
    channels: list[str]
    image_shape: tuple[int, ...]
    image_chunks: tuple[int, ...]
    image_dtype: str
    labels_shape: tuple[int, ...]
    labels_chunks: tuple[int, ...]
    labels_dtype: str
    fingerprint: str
    level: int | str = 0
    labels_level: int | str | None = None
    axes: str | None = None
    t: int | None = None
    label_connected: bool = False
    labels_scale: float | Sequence[float] | None = None
    labels_translation: float | Sequence[float] | None = None
    labels_nearest: bool = False
    placing: int = 0
    labels_stored: str = ""
    rearranged: int = 0
    storage_options: dict[str, Any] = field(default_factory=dict)
    cache: str | None = None
    missing: MissingChunks = "refuse"
    files: str = ""
    numbers: tuple[int, ...] | None = None
    lazy: bool = False
    named: list[str] = field(default_factory=list)
    spacing: tuple[float, ...] | None = None

    @property
    def in_use(self) -> tuple[int, ...]:
        """Numbers of the channels in use."""
        return tuple(range(len(self.channels))) if self.numbers is None else self.numbers

    @property
    def strict(self) -> bool | None:
        """Value of the argument of `harpy_core.aggregate_stats` and the other jobs."""
        return {"refuse": None, "strict": True, "fill": False}[self.missing]

    def choosing(self, channels: Sequence[str] | None) -> RasterInfo:
        """Return the same raster with some channels in use, in its own order; None means all.

        Raises
        ------
        InputError
            A channel is not there.
        """
        for name in channels or ():
            if name not in self.channels:
                raise InputError(
                    f"{self.uri}: channel {name!r} is not in use; choose from "
                    f"{', '.join(self.channels)}"
                )
        if channels is None:
            return self
        kept = {
            name: number
            for name, number in zip(self.channels, self.in_use, strict=True)
            if name in channels
        }
        return dataclasses.replace(self, channels=list(kept), numbers=tuple(kept.values()))

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write the description; the text is the same for the same raster.

        Raises
        ------
        InputError
            An address or an option may hold credentials: these are not written.
        """
        addresses = [self.uri, self.labels or ""]
        protocols = [text.partition("://")[0] for text in addresses if "://" in text]
        troubles = [
            *map(address_trouble, addresses),
            options_trouble(self.storage_options, protocols),
        ]
        for trouble in filter(None, troubles):
            raise InputError(f"{self.uri}: {trouble}")
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> RasterInfo:
        """Read what `to_json` wrote."""
        with open(path, encoding="utf-8") as handle:
            fields = json.load(handle)
        for name, value in fields.items():
            if isinstance(value, list) and name not in ("channels", "named"):
                fields[name] = tuple(value)
        return cls(**fields)


def itemsize(dtype: str) -> int:
    """Bytes of an item of a NumPy type by name: ``uint16``, ``float64``, ``bool``."""
    digits = "".join(filter(str.isdigit, dtype))
    return int(digits) // 8 if digits else 1
