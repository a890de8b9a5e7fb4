"""Reading crops back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from harpy_core.errors import InputError, understood
from harpy_core.raster.stored import open_stored, read_rows, read_whole
from harpy_core.storage.folders import address_of
from harpy_core.tiles.labels import checked_labels


@dataclass(frozen=True, slots=True)
class Crops:
    """A finished store of crops.

    Attributes
    ----------
    path
        Its folder; or its address, in a bucket.
    image
        Zarr array of pixels, (i, c, z, y, x).
    mask
        Zarr array, (i, 1, z, y, x) uint8, or (i, 2, z, y, x) with neighbours; None where no masks
        were asked for.
    instance_id : (i,) uint64
        Label of each crop.
    centroid : (i, 3) float64
        Mean z, y and x of each instance's pixels in the image.
    angle : (i,) float64
        Angle of each instance's longest axis, from x towards y in radians, by which its crop was
        turned; None where crops are not turned.
    channels
        Name of each channel.
    attributes
        Record of how the store was made: diameter, parameters, source, versions, digest.
    of_window
        Name of the further window that these are; None for the crops themselves.
    storage_options
        Options by which an address was opened.
    """

    path: Path | str
    image: zarr.Array
    mask: zarr.Array | None
    instance_id: np.ndarray
    centroid: np.ndarray
    channels: list[str]
    attributes: dict[str, Any]
    angle: np.ndarray | None = None
    of_window: str | None = None
    storage_options: Mapping[str, Any] | None = None

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

    def window(self, name: str) -> Crops:
        """Return the crops of a further window, with which all that reads crops works likewise.

        Parameters
        ----------
        name
            Key of the argument `windows` of `harpy_core.extract_instances`.

        Raises
        ------
        InputError
            There is no such window.
        """
        return open_crops(self.path, name, storage_options=self.storage_options)

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
        if self.of_window is not None:
            found = self.attributes["parameters"]["windows"][self.of_window]["diameter"]
        return found

    @property
    def digest(self) -> str:
        """Digest of the content; of a further window followed by its name."""
        found = str(self.attributes["digest"])
        return found if self.of_window is None else f"{found}/{self.of_window}"


def open_crops(
    path: str | os.PathLike[str],
    window: str | None = None,
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> Crops:
    """Open a store that `extract_instances` wrote.

    Parameters
    ----------
    path
        Folder of the store, or its address.
    window
        Name of a further window; None opens the crops themselves.
    storage_options
        Options of fsspec for an address, which is read with the credentials of the environment;
        ``{"anon": True}`` reads it without any.

    Raises
    ------
    InputError
        There is no finished store of crops, or no such window, or it is damaged.
    """
    with understood(os.fspath(path)):
        return _opened(path, window, storage_options)


def _opened(
    path: str | os.PathLike[str], window: str | None, options: Mapping[str, Any] | None
) -> Crops:
    try:
        group = open_stored(path, options)
        attributes: dict[str, Any] = group.attrs.asdict()
        there = attributes.get("parameters", {}).get("windows", {})
        if window is not None and window not in there:
            names = f"there are {', '.join(there)}" if there else "there are none"
            raise InputError(f"{path}: window {window!r}: no such window; {names}")
        ending = "" if window is None else f"_{window}"
        return Crops(
            address_of(path) or Path(path),
            _array(group, f"image{ending}"),
            _array(group, f"mask{ending}") if f"mask{ending}" in group else None,
            read_whole(_array(group, "instance_id")),
            read_whole(_array(group, "centroid")),
            [str(name) for name in attributes["channels"]],
            attributes,
            read_whole(_array(group, "angle")) if "angle" in group else None,
            window,
            options,
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
