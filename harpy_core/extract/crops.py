"""Reading crops back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from harpy_core.errors import InputError, understood
from harpy_core.raster.stored import read_rows, read_whole
from harpy_core.tiles.labels import checked_labels


@dataclass(frozen=True, slots=True)
class Crops:
    """A finished store of crops.

    Attributes
    ----------
    path
        Its folder.
    image
        Zarr array of pixels, (i, c, z, y, x).
    mask
        Zarr array, (i, 1, z, y, x) uint8, or (i, 2, z, y, x) with neighbours; None where no masks
        were asked for.
    instance_id : (i,) uint64
        Label of each crop.
    centroid : (i, 3) float64
        Mean z, y and x of each instance's pixels in the image.
    channels
        Name of each channel.
    attributes
        Record of how the store was made: diameter, parameters, source, versions, digest.
    """

    path: Path
    image: zarr.Array
    mask: zarr.Array | None
    instance_id: np.ndarray
    centroid: np.ndarray
    channels: list[str]
    attributes: dict[str, Any]

    def __len__(self) -> int:
        return len(self.instance_id)

    def __getitem__(self, ids: int | Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the crop of one label, (c, z, y, x), or of several, in order, (n, c, z, y, x).

        Raises
        ------
        InputError
            A label has no crop, or a chunk is damaged.
        """
        wanted = checked_labels(ids, "crops")
        order = np.argsort(self.instance_id)
        place = np.searchsorted(self.instance_id[order], wanted)
        place[place == len(self)] = 0
        if len(self) == 0 or np.any(self.instance_id[order[place]] != wanted):
            have = self.instance_id[order[place]] if len(self) else np.zeros_like(wanted)
            missing = wanted[have != wanted][0] if len(self) else wanted[0]
            raise InputError(f"{self.path}: instance {missing} has no crop; see instance_id")
        found = read_rows(self.image, order[place])
        return found[0] if np.ndim(ids) == 0 else found

    def batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield labels and crops, one chunk of the store after the other."""
        size = self.image.chunks[0]
        for first in range(0, len(self), size):
            rows = np.arange(first, min(first + size, len(self)))
            yield self.instance_id[rows], read_rows(self.image, rows)

    @property
    def diameter(self) -> int | list[int]:
        """Side of a crop, in pixels, or its sides, as they were asked for."""
        found: int | list[int] = self.attributes["diameter"]
        return found

    @property
    def digest(self) -> str:
        """Digest of the content."""
        return str(self.attributes["digest"])


def open_crops(path: str | os.PathLike[str]) -> Crops:
    """Open a store that `extract_instances` wrote.

    Raises
    ------
    InputError
        There is no finished store of crops, or it is damaged.
    """
    with understood(os.fspath(path)):
        return _opened(path)


def _opened(path: str | os.PathLike[str]) -> Crops:
    try:
        group = zarr.open_group(path, mode="r")
        attributes: dict[str, Any] = group.attrs.asdict()
        return Crops(
            Path(path),
            _array(group, "image"),
            _array(group, "mask") if "mask" in group else None,
            read_whole(_array(group, "instance_id")),
            read_whole(_array(group, "centroid")),
            [str(name) for name in attributes["channels"]],
            attributes,
        )
    except (FileNotFoundError, KeyError) as error:
        raise InputError(
            f"{path}: no finished crops there; run extract_instances, or correct the path"
        ) from error


def _array(group: zarr.Group, name: str) -> zarr.Array:
    node = group[name]
    if not isinstance(node, zarr.Array):
        raise KeyError(name)
    return node
