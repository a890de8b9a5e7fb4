"""Empty SpatialData stores: the metadata of images and labels, written before any pixel.

SpatialData itself writes whole Dask arrays. Here the metadata it would write (Zarr format 3,
OME-NGFF 0.5) is written by hand, and the caller fills the arrays chunk by chunk.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import zarr
from zarr.errors import ZarrUserWarning

from harpy_core.errors import InputError
from harpy_core.storage import codecs

# The versions of SpatialData's own containers and of the NGFF draft it writes (0.7 and 0.8).
_CONTAINER = "0.2"
_RASTER = "0.3"
_NGFF = "0.5-dev-spatialdata"
_LABEL_SPECIFICATION = "0.5"

TABLE_ATTRIBUTES: dict[int, dict[str, str]] = {
    2: {"spatialdata-encoding-type": "ngff:regions_table", "version": "0.1"},
    3: {"spatialdata-encoding-type": "ngff:regions_table", "version": "0.2"},
}
"""Attributes of a table's element, by the version of Zarr, beside the keys of its annotation."""


def create(path: str | os.PathLike[str]) -> zarr.Group:
    """Make an empty SpatialData store.

    Parameters
    ----------
    path
        Folder to make; an existing one must be empty.

    Returns
    -------
    The root group, with empty groups ``images`` and ``labels``.
    """
    root = zarr.create_group(
        os.fspath(path),
        zarr_format=3,
        # SpatialData would add its own version, as the writer; it may not be installed here.
        attributes={"spatialdata_attrs": {"version": _CONTAINER}},
    )
    root.create_group("images")
    root.create_group("labels")
    return root


def create_image(
    root: zarr.Group,
    name: str,
    shape: Sequence[int],
    chunks: Sequence[int],
    dtype: np.typing.DTypeLike,
    channels: Sequence[str],
    **encoding: Any,
) -> zarr.Array:
    """Add an image that holds no pixels yet.

    Parameters
    ----------
    root
        Group that `create` returned.
    name
        Name of the element.
    shape
        (c, y, x) or (c, z, y, x), in pixels.
    chunks
        Chunk size along each axis, in pixels.
    dtype
        Type of the pixels.
    channels
        Name of each channel.
    **encoding
        Arguments of `zarr.Group.create_array`; Blosc LZ4 if they name no compressors.

    Returns
    -------
    The array at full resolution, reading as 0 until it is written.

    Raises
    ------
    InputError
        The number of axes is wrong, or channels and names differ in number.
    """
    axes = _axes(name, ("c", "z", "y", "x"), shape)
    if len(channels) != shape[0]:
        raise InputError(
            f"image {name!r}: {len(channels)} channel names for {shape[0]} channels: "
            "give one name for each"
        )
    attributes = _multiscales(name, axes)
    attributes["ome"]["omero"] = {"channels": [{"label": str(c)} for c in channels]}
    group = root.create_group(f"images/{name}", attributes=attributes)
    usual = codecs.compressors("lz4", np.dtype(dtype), "image")
    return _create_array(group, axes, shape, chunks, dtype, {"compressors": usual, **encoding})


def create_labels(
    root: zarr.Group,
    name: str,
    shape: Sequence[int],
    chunks: Sequence[int],
    dtype: np.typing.DTypeLike,
    **encoding: Any,
) -> zarr.Array:
    """Add labels that hold no instance yet.

    Parameters
    ----------
    root
        Group that `create` returned.
    name
        Name of the element.
    shape
        (y, x) or (z, y, x), in pixels.
    chunks
        Chunk size along each axis, in pixels.
    dtype
        An integer type.
    **encoding
        Arguments of `zarr.Group.create_array`; Blosc Zstandard if they name no compressors.

    Returns
    -------
    The array at full resolution, reading as 0, background, until it is written.

    Raises
    ------
    InputError
        The number of axes is wrong.
    """
    axes = _axes(name, ("z", "y", "x"), shape)
    attributes = _multiscales(name, axes)
    attributes["ome"]["image-label"] = {"version": _LABEL_SPECIFICATION}
    group = root.create_group(f"labels/{name}", attributes=attributes)
    attrs = root["labels"].attrs
    listed: Any = attrs.get("ome", {})
    attrs["ome"] = {"labels": [*listed.get("labels", []), name]}
    usual = codecs.compressors("zstd", np.dtype(dtype), "labels")
    return _create_array(group, axes, shape, chunks, dtype, {"compressors": usual, **encoding})


def consolidate(root: zarr.Group) -> None:
    """Copy the metadata of all groups and arrays into the root's, as SpatialData does."""
    with warnings.catch_warnings():
        # It warns that the Zarr 3 specification does not have this yet; our readers know it.
        warnings.simplefilter("ignore", ZarrUserWarning)
        zarr.consolidate_metadata(root.store)


def _axes(name: str, all_axes: tuple[str, ...], shape: Sequence[int]) -> tuple[str, ...]:
    if len(shape) == len(all_axes):
        return all_axes
    if len(shape) == len(all_axes) - 1:
        return tuple(axis for axis in all_axes if axis != "z")
    raise InputError(
        f"element {name!r} has {len(shape)} axes, shape {tuple(shape)}: "
        f"give ({', '.join(a for a in all_axes if a != 'z')}) or ({', '.join(all_axes)})"
    )


def _multiscales(name: str, axes: Iterable[str]) -> dict[str, Any]:
    """Metadata of one resolution, in pixels, unchanged in the coordinate system ``global``."""
    axes = tuple(axes)
    bare = [{"name": a, "type": "channel" if a == "c" else "space"} for a in axes]
    in_units = [a if a["type"] == "channel" else {**a, "unit": "unit"} for a in bare]
    level = {
        "path": "s0",
        "coordinateTransformations": [{"type": "scale", "scale": [1.0] * len(axes)}],
    }
    identity = {
        "type": "identity",
        "input": {"name": "".join(axes), "axes": in_units},
        "output": {"name": "global", "axes": in_units},
    }
    multiscale = {
        "datasets": [level],
        "name": name,
        "axes": bare,
        "coordinateTransformations": [identity],
    }
    return {
        "ome": {"version": _NGFF, "multiscales": [multiscale]},
        "spatialdata_attrs": {"version": _RASTER},
    }


def _create_array(
    group: zarr.Group,
    axes: Sequence[str],
    shape: Sequence[int],
    chunks: Sequence[int],
    dtype: np.typing.DTypeLike,
    encoding: dict[str, Any],
) -> zarr.Array:
    return group.create_array(
        "s0",
        shape=tuple(int(n) for n in shape),
        chunks=tuple(int(n) for n in chunks),
        dtype=np.dtype(dtype),
        dimension_names=list(axes),
        **{"fill_value": 0, **encoding},
    )
