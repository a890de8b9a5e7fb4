"""Opening of an image and its labels, on disk or at an address.

Formats recognise and open sources (`harpy_core.raster.formats`); whether image and labels belong
together is decided here.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harpy_core.config.models import MissingChunks
from harpy_core.errors import InputError, understood
from harpy_core.raster import axes
from harpy_core.raster.fingerprints import fingerprint
from harpy_core.raster.formats import beside, format_of, is_apart, remote
from harpy_core.raster.formats.format import Element
from harpy_core.raster.info import RasterInfo
from harpy_core.raster.placement import difference
from harpy_core.raster.polygons import POLYGONS, read_polygons
from harpy_core.raster.raster import Raster, channel_names
from harpy_core.raster.spacing import along
from harpy_core.raster.views import AxesView, ChannelView, whole_image
from harpy_core.storage.manifest import digest_of, read_manifest

_FILE = re.compile(r"(\.ome)?\.(tiff?|btf|tf2|tf8|zarr)(\.zip)?$", re.IGNORECASE)
"""Endings that are left out of the name of labels in a file of their own."""


def open_raster(
    uri: str | os.PathLike[str],
    image: str | None = None,
    labels: str | None = None,
    channels: Sequence[str] | None = None,
    *,
    level: int = 0,
    storage_options: Mapping[str, Any] | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> Raster:
    """Open an image and its labels.

    Parameters
    ----------
    uri
        SpatialData or OME-Zarr store (a folder, a zip, or an s3://, gs:// or https:// address),
        group with plain Zarr arrays, or TIFF.
    image
        Element or group inside the store, or name or number of a TIFF's series; not needed if
        there is only one.
    labels
        Element or group inside the store, or the path or address of a label TIFF or Zarr array.
    channels
        Names of the channels to keep, in the order of the file; None keeps all.
    level
        Resolution of a multiscale image and of its labels; 0 is the finest.
    storage_options
        Options of fsspec for an address, by its protocol, such as ``anon`` and ``endpoint_url``
        for s3. Without any it is read anonymously.
    cache
        Folder in which the chunks fetched from an address are kept.

    Returns
    -------
    Raster

    Raises
    ------
    InputError
        There is nothing, no access, or no such element, level or channel; axes or shapes do not
        match, labels are not integers, or a transformation moves them against the image.
    """
    raster, _ = _opened(str(uri), image, labels, channels, level, storage_options, cache)
    return raster


def describe(
    uri: str | os.PathLike[str],
    image: str | None = None,
    labels: str | None = None,
    channels: Sequence[str] | None = None,
    *,
    level: int = 0,
    storage_options: Mapping[str, Any] | None = None,
    cache: str | os.PathLike[str] | None = None,
    missing_chunks: MissingChunks = "refuse",
) -> RasterInfo:
    """Describe what `open_raster` would open; see there for the parameters and errors.

    Parameters
    ----------
    missing_chunks
        Treatment of chunks that are not stored, as in the config.
    """
    uri = str(uri)
    place = os.path.abspath(uri) if format_of(uri).LOCAL else uri
    raster, apart = _opened(place, image, labels, channels, level, storage_options, cache)
    return dataclasses.replace(
        raster.info(),
        uri=place,
        image=image,
        labels=apart or labels,
        fingerprint=_declared(place, raster, apart) or raster.fingerprint or "",
        files=_files(place, raster, apart),
        level=level,
        storage_options=dict(storage_options or {}),
        cache=None if cache is None else os.path.abspath(cache),
        missing=missing_chunks,
    )


def open_described(info: RasterInfo) -> Raster:
    """Open what `describe` described.

    Raises
    ------
    InputError
        The source has changed since it was described.
    """
    raster, apart = _opened(
        info.uri,
        info.image,
        info.labels,
        info.channels,
        info.level,
        info.storage_options,
        info.cache,
    )
    if info.files and _files(info.uri, raster, apart) != info.files:
        raise InputError(
            f"{info.uri}: its files are not those that were described: they changed since; run "
            "again from the description, and what was made of them is made anew"
        )
    return raster


def open_layer(info: RasterInfo, labels: str) -> Any:
    """Open other labels of the image that `describe` described.

    Parameters
    ----------
    info
        The image.
    labels
        Name of an element, or path or address, as in `open_raster`; or path of polygons, as in
        `harpy_core.read_polygons`, in pixels of the image.

    Raises
    ------
    InputError
        See `open_raster` and `harpy_core.read_polygons`; or polygons are of a volume.
    """
    if labels.lower().endswith(POLYGONS):
        if len(info.labels_shape) > 2:
            raise InputError(f"{labels}: polygons are flat, the image is a volume; leave it out")
        return read_polygons(beside(labels, info.uri), info.labels_shape)
    return open_described(dataclasses.replace(info, labels=labels, files="")).labels


def _opened(
    uri: str,
    image: str | None,
    labels: str | None,
    channels: Sequence[str] | None,
    level: int,
    storage_options: Mapping[str, Any] | None,
    cache: str | os.PathLike[str] | None,
) -> tuple[Raster, str | None]:
    """Return the raster, and the place of its labels if they are a file of their own."""
    pixels, segmentation = find_elements(uri, image, labels, level, storage_options)
    checked = check_elements(uri, pixels, segmentation)
    names = checked.channels
    image_array, label_array = (_kept(e.array, cache) for e in (pixels, segmentation))
    chosen = chosen_channels(uri, names, channels)
    if len(chosen) < len(names):
        image_array = ChannelView(image_array, tuple(chosen))
    apart = (
        None if labels is None or segmentation.name != beside(labels, uri) else segmentation.name
    )
    name = segmentation.name if apart is None else _FILE.sub("", os.path.basename(apart))
    raster = Raster.of(image_array, {name: label_array}, [names[i] for i in chosen])
    return dataclasses.replace(raster, spacing=checked.spacing), apart


def _files(uri: str, raster: Raster, apart: str | None) -> str:
    """Identity of a source's files: declared by a store of ours, or found on disk."""
    declared = _declared(uri, raster, apart)
    return declared or fingerprint(whole_image(raster.image), raster.labels) or ""


def find_elements(
    uri: str | os.PathLike[str],
    image: str | None,
    labels: str | None,
    level: int = 0,
    storage_options: Mapping[str, Any] | None = None,
) -> tuple[Element, Element]:
    """Open an image and its labels separately; whether they belong together is not checked.

    See `open_raster` for the parameters and errors.
    """
    uri = str(uri)
    source = format_of(uri)
    elsewhere = labels is not None and (is_apart(labels) or os.path.isdir(beside(labels, uri)))
    with understood(uri):
        pixels = source.open_image(uri, image, level, storage_options)
        inside = source.open_labels(uri, labels, pixels.name, level, storage_options, elsewhere)
    if inside is not None or labels is None:
        assert inside is not None
        return pixels, inside
    place = beside(labels, uri)
    with understood(place):
        return pixels, format_of(place).open_alone(place, level, storage_options)


# Image and labels together ------------------------------------------------------------------------


def check_elements(uri: str, image: Element, labels: Element) -> Raster:
    """Make the raster of an image and its labels, if they belong together.

    Raises
    ------
    InputError
        Shapes, types or placement do not match, or channel names are not unique.
    """
    with understood(uri):
        raster = Raster.of(image.array, labels.array)
    if image.placed is not None and labels.placed is not None:
        flat = image.array.ndim == 3 or labels.array.ndim == 2
        told = difference(image.placed, labels.placed, ("y", "x") if flat else axes.SPATIAL)
        if told is not None:
            raise InputError(
                f"{uri}: labels {labels.name!r} do not lie on the image{_called(image)}: {told}; "
                "resample the labels onto the image's pixels"
            )
    where = f"{uri}: channels of the image{_called(image)}"
    names = channel_names(image.channels, len(raster.channels), where)
    sides = along(image.sides, axes.of("labels", labels.array.ndim))
    return dataclasses.replace(raster, channels=names, spacing=sides)


def _called(image: Element) -> str:
    return f" {image.name!r}" if image.name else ""


def chosen_channels(uri: str, names: Sequence[str], wanted: Sequence[str] | None) -> list[int]:
    """Numbers of the channels that are wanted, in the order of the file; all for None.

    Raises
    ------
    InputError
        A name is not among them.
    """
    for name in wanted or ():
        if name not in names:
            raise InputError(
                f"{uri}: channel {name!r} is not there; choose from {', '.join(names)}"
            )
    return [i for i, name in enumerate(names) if wanted is None or name in set(wanted)]


def _kept(array: Any, cache: str | os.PathLike[str] | None) -> Any:
    """Keep an array's chunks in a folder, if it is at an address and a folder is given."""
    if cache is None:
        return array
    if isinstance(array, AxesView):
        return AxesView(_kept(array.array, cache), array.kept)
    return remote.keeping(array, cache) if remote.owns(array) else array


def _declared(uri: str, raster: Raster, apart: str | None) -> str | None:
    """Digest from the manifest of a store that the workflow made, and of labels elsewhere."""
    if not format_of(uri).LOCAL:
        return None
    manifest = Path(uri).with_suffix(".manifest.json")
    if not manifest.is_file():
        return None
    declared: str = read_manifest(manifest)["digest"]
    return declared if apart is None else digest_of([declared, fingerprint(raster.labels)])
