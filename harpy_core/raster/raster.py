"""An image with its labels, checked, on which every job works.

Nothing else asks what kind of array was given; reading pixels is up to `reading`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from harpy_core.errors import InputError
from harpy_core.raster import axes
from harpy_core.raster.fingerprints import fingerprint
from harpy_core.raster.grown import origin_of
from harpy_core.raster.info import RasterInfo
from harpy_core.raster.label_views import ConnectedLabels, WholeNumbers, whole_numbers
from harpy_core.raster.placed import PlacedLabels
from harpy_core.raster.reading import (
    NUMPY_TILE,
    Reader,
    delivered,
    is_dask,
    lifted,
    reader_of,
)
from harpy_core.raster.untrusted import refuse_absurd, refuse_codecs
from harpy_core.raster.views import AxesView, ChannelView, whole_image
from harpy_core.tiles.grid import Edges

LABELS = "labels"
"""Name of a layer that was given without one."""

_KINDS = {"image": "images", "labels": "labels"}


@dataclass(frozen=True, eq=False)
class Raster:
    """An image with its labels; `Raster.of` makes one from arrays of any kind and checks them.

    Attributes
    ----------
    image
        Array (c, y, x) or (c, z, y, x), a view of the chosen channels if not all were asked for;
        None for a job on labels alone.
    layers
        Label arrays by name, each (y, x) or (z, y, x); either all of them and the image are Dask
        arrays, or none is.
    channels
        Name of each channel of `image`.
    spacing
        Side of a pixel along (z, ) y and x of the labels in micrometres; None where the image's
        metadata do not say it.
    origins
        Labels whose instances each layer has, by the layer's name: those that it is made of.
    """

    image: Any
    layers: Mapping[str, Any]
    channels: list[str]
    spacing: tuple[float, ...] | None = None
    origins: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        image: Any | None,
        labels: Any | Mapping[str, Any],
        channels: Sequence[str] | None = None,
    ) -> Raster:
        """Make a raster from arrays as users have them.

        Parameters
        ----------
        image
            Array (c, y, x) or (c, z, y, x) that `open_raster` opened, or a NumPy, Dask, Zarr or
            xarray array, the last with axes in any order; None for labels alone.
        labels
            Whole numbers (y, x) or (z, y, x), likewise; or several such arrays, by name.
        channels
            Name of each channel; None numbers them.

        Raises
        ------
        InputError
            There is no array, axes are wrong, labels are not integers, pixels are not numbers,
            shapes do not match, or channel names are not unique.
        """
        given = labels if isinstance(labels, Mapping) else {LABELS: labels}
        if not given:
            raise InputError("labels: none given; give an array of them")
        layers = {name: as_labels(array) for name, array in given.items()}
        pixels = None if image is None else unwrapped(image, "image")
        for array in layers.values():
            if pixels is not None:
                refuse_absurd(pixels, "image")
                refuse_codecs(pixels, "image")
                _check_image(pixels, array)
        number = 0 if pixels is None else pixels.shape[0]
        # Before all become Dask arrays, which do not tell what they are made of.
        origins = {name: origin_of(array) for name, array in layers.items()}
        pixels, *alike = _alike(pixels, *layers.values())
        named = dict(zip(layers, alike, strict=True))
        return cls(pixels, named, channel_names(channels, number), origins=origins)

    @property
    def labels(self) -> Any:
        """The first of the layers."""
        return next(iter(self.layers.values()))

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the image's axes, or of the labels' if there is no image."""
        array, known = (self.labels, "labels") if self.image is None else (self.image, "images")
        return axes.of(known, array.ndim)

    @property
    def lazy(self) -> bool:
        """Whether pixels are computed, block by block, by a user's Dask graph."""
        return is_dask(self.labels)

    @property
    def pixel_type(self) -> np.dtype:
        """Type in which the image's pixels are measured."""
        return delivered(np.dtype(self.image.dtype))

    @cached_property
    def fingerprint(self) -> str | None:
        """Digest that identifies this input; None where nothing does."""
        return fingerprint(*self._arrays)

    @cached_property
    def content(self) -> str | None:
        """Fingerprint without the times of files: equal for copies of a store."""
        return fingerprint(*self._arrays, times=False)

    def spacing_of(self, asked: str | Sequence[float] | None) -> Sequence[float] | None:
        """Return the spacing that a config asks for.

        Raises
        ------
        InputError
            It is that of the metadata, and they have none.
        """
        if not isinstance(asked, str):
            return asked
        if self.spacing is None:
            raise InputError(
                f"spacing = {asked}: the metadata do not say how large a pixel is; give its sides, "
                "such as [0.5, 0.5]"
            )
        return self.spacing

    def image_edges(self) -> Edges:
        """Edges of the image's chunks along c, z, y and x."""
        return _edges(self.image, 4)

    def label_edges(self) -> Edges:
        """Edges of the labels' chunks along z, y and x."""
        return _edges(self.labels, 3)

    def image_reader(self, strict: bool | None = None) -> Reader:
        """Return a reader of the image, unless it is lazy: then each of its blocks has one.

        Parameters
        ----------
        strict
            Make a missing chunk an error; None reports it, False takes it as the fill value.
        """
        return reader_of(self.image, 4, strict)

    def label_reader(self, strict: bool | None = None) -> Reader:
        """Return a reader of the labels, unless they are lazy: a missing chunk is background.

        Parameters
        ----------
        strict
            Make a missing chunk an error.
        """
        return reader_of(self.labels, 3, bool(strict))

    def info(self) -> RasterInfo:
        """Describe shapes and types alone, without a place; no image is one without channels."""
        image = whole_image(self.labels if self.image is None else self.image)
        apart = () if self.image is not None else (0,)
        return RasterInfo(
            uri="",
            image=None,
            labels=None,
            channels=self.channels,
            image_shape=(*apart, *image.shape),
            image_chunks=(*apart, *_chunks(image)),
            image_dtype=_type_name(image),
            labels_shape=tuple(self.labels.shape),
            labels_chunks=_chunks(self.labels),
            labels_dtype=_type_name(self.labels),
            labels_stored=_stored_type(self.labels),
            rearranged=max(map(_rearranged, (image, self.labels))),
            placing=self.labels.working if isinstance(self.labels, PlacedLabels) else 0,
            fingerprint="",
            numbers=self.image.indices if isinstance(self.image, ChannelView) else None,
            lazy=self.lazy,
            spacing=self.spacing,
        )

    @property
    def _arrays(self) -> list[Any]:
        return [array for array in (self.image, *self.layers.values()) if array is not None]


def channel_names(
    channels: Sequence[str] | None, number: int, where: str = "channels"
) -> list[str]:
    """Return a unique name for each channel.

    Parameters
    ----------
    channels
        Names that were given or found; None numbers the channels.
    number
        Number of channels.
    where
        Name of the argument in an error.

    Raises
    ------
    InputError
        There are too few names, too many, or two of the same.
    """
    names = [str(c) for c in range(number)] if channels is None else [str(c) for c in channels]
    if len(names) != number:
        raise InputError(
            f"{where}: {len(names)} names for an image of {number} channels; give one for each"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{where}: {twice[0]!r} appears twice; rename one of them")
    return names


# Arrays as they are given -------------------------------------------------------------------------


def unwrapped(array: Any, kind: str) -> Any:
    """Return the array inside an xarray.DataArray, its axes in order; or the array itself.

    Parameters
    ----------
    kind
        ``image`` or ``labels``.

    Raises
    ------
    InputError
        It is no array, or has other axes.
    """
    if type(array).__module__.startswith("xarray") and hasattr(array, "dims"):
        array = _in_order(array, kind)
    if any(not hasattr(array, name) for name in ("shape", "dtype", "ndim")):
        raise InputError(
            f"{kind}: a {type(array).__name__} is no array; give one of NumPy, Dask, Zarr or xarray"
        )
    return array


def _in_order(array: Any, kind: str) -> Any:
    """Return the pixels of an xarray.DataArray with its axes in the jobs' order, by name."""
    dims = [str(dim) for dim in array.dims]
    if dims == [f"dim_{i}" for i in range(len(dims))]:
        # xarray's own names, where none were given.
        return array.data
    alone = {dim: 0 for dim in array.dims if str(dim).lower() == "t" and array.sizes[dim] == 1}
    array = array.isel(alone) if alone else array
    places = {str(dim).lower(): dim for dim in array.dims}
    known = axes.ALL[_KINDS[kind]]
    flat = tuple(axis for axis in known if axis != "z")
    wanted = tuple(axis for axis in known if axis in places)
    if len(places) != array.ndim or len(wanted) != array.ndim or wanted not in (known, flat):
        raise InputError(
            f"{kind}: dimensions are {', '.join(dims)}: give ({', '.join(flat)}) or "
            f"({', '.join(known)}), in any order, with array.rename(...) or array.isel(...)"
        )
    order = [places[axis] for axis in wanted]
    return (array if order == list(array.dims) else array.transpose(*order)).data


def as_labels(given: Any) -> Any:
    """Return labels as the jobs take them: integers, whose axes are in order.

    Raises
    ------
    InputError
        It is no array (y, x) or (z, y, x) of integers, or of floats that may be whole numbers.
    """
    labels = unwrapped(given, "labels")
    refuse_absurd(labels, "labels")
    refuse_codecs(labels, "labels")
    if labels.ndim not in (2, 3):
        raise InputError(
            f"labels have {labels.ndim} axes, shape {tuple(labels.shape)}: give (y, x) or (z, y, x)"
        )
    kind = np.dtype(labels.dtype).kind
    if kind == "f" and np.dtype(labels.dtype).itemsize <= 8:
        if is_dask(labels):
            return labels.map_blocks(whole_numbers, dtype=np.int64)
        return WholeNumbers(labels, reader_of(labels, 3, False))
    if kind == "b":
        raise InputError(
            "labels are bool, a binary mask: label_connected: true (in Python: "
            "harpy_core.label_connected(labels)) gives each of its connected pieces a number"
        )
    if kind not in "iu":
        raise InputError(
            f"labels are {np.dtype(labels.dtype)}: give integers, e.g. labels.astype('uint32')"
        )
    return labels


def label_connected(labels: Any) -> ConnectedLabels:
    """Label the connected pieces of a binary mask.

    Parameters
    ----------
    labels
        Mask (y, x) or (z, y, x) of any type: a NumPy, Zarr or xarray array, or one that
        `open_raster` opened. Pixels that are not 0 are the foreground.

    Returns
    -------
    ConnectedLabels
        Array of the mask's shape that every job takes as labels. Pixels of the foreground that
        share a side have one number, that of ``scipy.ndimage.label`` on the whole mask. The pieces
        are found when they are first needed, in one pass, tile by tile.

    Raises
    ------
    InputError
        It is no array, or a Dask array, or has other axes.
    """
    mask = unwrapped(labels, "labels")
    if is_dask(mask):
        raise InputError(
            "labels: the pieces of a Dask array are not found: store it first (to_zarr), or use "
            "dask_image.ndmeasure.label"
        )
    refuse_absurd(mask, "labels")
    refuse_codecs(mask, "labels")
    if mask.ndim not in (2, 3):
        raise InputError(
            f"labels have {mask.ndim} axes, shape {tuple(mask.shape)}: give (y, x) or (z, y, x)"
        )
    return ConnectedLabels(mask, reader_of(mask, 3, False))


def _check_image(image: Any, labels: Any) -> None:
    if image.ndim not in (3, 4):
        raise InputError(
            f"image has {image.ndim} axes, shape {tuple(image.shape)}: "
            "give (c, y, x) or (c, z, y, x)"
        )
    if np.dtype(image.dtype).kind not in "biuf" or np.dtype(image.dtype).itemsize > 8:
        raise InputError(
            f"image pixels are {np.dtype(image.dtype)}: give integers or floats of at most 64 bits"
        )
    if lifted(tuple(image.shape[1:]), 3, 1) != lifted(tuple(labels.shape), 3, 1):
        remedy = "give labels of the image's shape without its channels"
        if tuple(image.shape[:-1]) == tuple(labels.shape):
            remedy = "its channels seem to come last, so give np.moveaxis(image, -1, 0)"
        raise InputError(
            f"image {tuple(image.shape)} and labels {tuple(labels.shape)} do not cover the same "
            f"pixels: {remedy}"
        )


def _alike(*arrays: Any) -> list[Any]:
    """Return all as they are, or all as Dask arrays if one of them is."""
    if len({is_dask(array) for array in arrays if array is not None}) < 2:
        return list(arrays)
    import dask.array as da

    return [a if a is None or is_dask(a) else da.from_array(a) for a in arrays]


def _edges(array: Any, axes: int) -> Edges:
    if not is_dask(array):
        return reader_of(array, axes).edges
    chunks = lifted(array.chunks, axes, (1,))
    return tuple(tuple(np.cumsum([0, *sizes]).tolist()) for sizes in chunks)


def _chunks(array: Any) -> tuple[int, ...]:
    """Largest chunk along each axis; for a NumPy array, the tiles in which it is worked on."""
    found = getattr(array, "chunks", None)
    if found is None:
        plane = tuple(min(n, NUMPY_TILE) for n in array.shape[-2:])
        return (1,) * (array.ndim - 2) + plane
    return tuple(max(c) if isinstance(c, tuple) else int(c) for c in found)


def _type_name(array: Any) -> str:
    """NumPy's name of a pixel type, regardless of its byte order on disk."""
    return str(np.dtype(array.dtype).newbyteorder("="))


def _stored_type(labels: Any) -> str:
    """Name of the type from which labels are computed; empty if they are as they are stored."""
    computed = isinstance(labels, ConnectedLabels | WholeNumbers)
    return _type_name(labels.arrays[0]) if computed else ""


def _rearranged(array: Any) -> int:
    """Bytes of a chunk that is decoded before its axes are moved, or labels are placed.

    0 if it is decoded in place.
    """
    if isinstance(array, PlacedLabels):
        inner = array.arrays[0]
        return math.prod(_chunks(inner)) * inner.dtype.itemsize + _rearranged(inner)
    view = array.arrays[0] if isinstance(array, ConnectedLabels | WholeNumbers) else array
    if not isinstance(view, AxesView) or view.in_place:
        return 0
    return math.prod(view.array.chunks) * view.dtype.itemsize
