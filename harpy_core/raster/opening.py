"""Open an image and its labels from what is on disk or at an address, and say what was found.

Level paths, axes, channel names and placement are read from the metadata (SpatialData, OME-Zarr
0.4 and 0.5, OME-TIFF), never assumed. How a store is reached is `stores`' and `remote`'s.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zarr

from harpy_core.errors import InputError
from harpy_core.raster.formats.stores import is_address, open_group, open_node
from harpy_core.raster.formats.tiff import TiffArray, is_tiff
from harpy_core.raster.info import RasterInfo
from harpy_core.raster.placement import Placement, difference, placement
from harpy_core.raster.raster import Raster, channel_names
from harpy_core.raster.reading import AxesView, ChannelView
from harpy_core.storage.manifest import read_manifest

_SPATIAL = ("z", "y", "x")
_ALL = {"images": ("c", *_SPATIAL), "labels": _SPATIAL}
"""Axes of the two kinds of element, as the jobs want them; z may be left out."""


@dataclass(frozen=True, slots=True)
class Element:
    """An array of a store, with what its metadata says of it.

    Attributes
    ----------
    name
        Where it was found inside its store; its path, where it is a file of its own.
    array
        The chosen level: (c, y, x) or (c, z, y, x) where it is an image.
    channels
        Names from the metadata; None without.
    placed
        Where it lies in each coordinate system; None where nothing says.
    levels
        Shapes of all its resolutions, as they are stored.
    """

    name: str
    array: Any
    channels: list[str] | None
    placed: Placement | None
    levels: list[tuple[int, ...]]


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
        A SpatialData or OME-Zarr store (a folder, a zip, or an s3://, gs:// or https:// address),
        a group holding plain Zarr arrays, or a TIFF.
    image
        Element or group inside the store, or name or number of a TIFF's series; not needed where
        there is only one.
    labels
        Element or group inside the store, or the path or address of a label TIFF or Zarr array.
    channels
        Names of the channels to keep, in the order of the file; all without.
    level
        Resolution of a multiscale image and of its labels; 0 is the finest.
    storage_options
        For an address: what fsspec takes for its protocol, such as ``anon`` and ``endpoint_url``
        for s3. Without any it is read anonymously.
    cache
        For an address: folder in which the chunks that were fetched are kept.

    Returns
    -------
    Raster

    Raises
    ------
    InputError
        Nothing there, no access, no such element, level or channel, axes or shapes that do not
        match, labels that are no integers, a transformation that moves labels against the image.
    """
    pixels, segmentation = find_elements(uri, image, labels, level, storage_options)
    names = check_elements(str(uri), pixels, segmentation).channels
    image_array, label_array = (_kept(e.array, cache) for e in (pixels, segmentation))
    kept = chosen_channels(str(uri), names, channels)
    if len(kept) < len(names):
        image_array = ChannelView(image_array, tuple(kept))
    return Raster.of(image_array, {segmentation.name: label_array}, [names[i] for i in kept])


def describe(
    uri: str | os.PathLike[str],
    image: str | None = None,
    labels: str | None = None,
    channels: Sequence[str] | None = None,
    *,
    level: int = 0,
    storage_options: Mapping[str, Any] | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> RasterInfo:
    """What `open_raster` would open; see there for the parameters and errors."""
    raster = open_raster(uri, image, labels, channels, level=level, storage_options=storage_options)
    uri = str(uri)
    place = uri if is_address(uri) else str(Path(uri).absolute())
    if labels is not None and _lie_outside(uri, image, labels, storage_options):
        labels = _beside(labels, place)
    return dataclasses.replace(
        raster.info(),
        uri=place,
        image=image,
        labels=labels,
        fingerprint=_declared(place) or raster.fingerprint,
        level=level,
        storage_options=dict(storage_options or {}),
        cache=None if cache is None else str(Path(cache).absolute()),
    )


def open_described(info: RasterInfo) -> Raster:
    """Open what `describe` described."""
    return open_raster(
        info.uri,
        info.image,
        info.labels,
        info.channels,
        level=info.level,
        storage_options=info.storage_options,
        cache=info.cache,
    )


def find_elements(
    uri: str | os.PathLike[str],
    image: str | None,
    labels: str | None,
    level: int = 0,
    storage_options: Mapping[str, Any] | None = None,
) -> tuple[Element, Element]:
    """An image and its labels, each as it is; what both are together is not checked.

    See `open_raster` for the parameters and errors.
    """
    uri = str(uri)
    if is_tiff(uri):
        if is_address(uri):
            raise InputError(f"{uri}: a TIFF is not read at an address; copy it here first")
        if labels is None:
            raise InputError(
                f"{uri}: a TIFF holds no labels; give labels = the path of a label TIFF"
            )
        pixels = _open_tiff(uri, image, "images", level)
        return pixels, _open_outside(labels, uri, level, storage_options)
    group = open_group(uri, storage_options)
    pixels = _open_inside(group, uri, "images", image, level)
    if labels is not None and _is_outside(group, pixels.name, labels):
        return pixels, _open_outside(labels, uri, level, storage_options)
    return pixels, _open_inside(group, uri, "labels", labels, level, pixels.name)


def names_in(group: zarr.Group, kind: str, image: str = "") -> list[str]:
    """Names of the images or labels of a store, as `open_raster` takes them.

    Parameters
    ----------
    group
        Root of the store.
    kind
        ``images`` or ``labels``.
    image
        The image whose labels are meant, where they lie below it.
    """
    below = _node(group, kind)
    if not isinstance(below, zarr.Group) and kind == "labels" and image:
        below = _node(group, f"{image}/labels")
    if isinstance(below, zarr.Group):
        found = sorted(name for name, _ in below.members())
        # Many servers do not list; labels are listed in the metadata too.
        return found or [str(name) for name in _metadata(below).get("labels", [])]
    if kind == "labels":
        return []
    if _multiscales(group):
        return [""]
    return sorted(
        name
        for name, node in group.members()
        if isinstance(node, zarr.Group) and _multiscales(node)
    )


# What the two are together ------------------------------------------------------------------------


def check_elements(uri: str, image: Element, labels: Element) -> Raster:
    """The raster of an image and its labels, once they are known to belong together.

    Raises
    ------
    InputError
        Shapes, types or placement that do not match, channels without a name each of their own.
    """
    raster = Raster.of(image.array, labels.array)
    if image.placed is not None and labels.placed is not None:
        flat = image.array.ndim == 3 or labels.array.ndim == 2
        told = difference(image.placed, labels.placed, ("y", "x") if flat else _SPATIAL)
        if told is not None:
            raise InputError(
                f"{uri}: labels {labels.name!r} do not lie on the image{_called(image)}: {told}; "
                "resample the labels onto the image's pixels"
            )
    where = f"{uri}: channels of the image{_called(image)}"
    names = channel_names(image.channels, len(raster.channels), where)
    return dataclasses.replace(raster, channels=names)


def _called(image: Element) -> str:
    return f" {image.name!r}" if image.name else ""


def chosen_channels(uri: str, names: Sequence[str], wanted: Sequence[str] | None) -> list[int]:
    """Numbers of the channels that are wanted, in the order of the file; all without.

    Raises
    ------
    InputError
        A name that is not among them.
    """
    for name in wanted or ():
        if name not in names:
            raise InputError(
                f"{uri}: channel {name!r} is not there; choose from {', '.join(names)}"
            )
    return [i for i, name in enumerate(names) if wanted is None or name in set(wanted)]


def _kept(array: Any, cache: str | os.PathLike[str] | None) -> Any:
    """An array whose chunks are kept in a folder, where it is at an address and one is given."""
    if cache is None:
        return array
    if isinstance(array, AxesView):
        return AxesView(_kept(array.array, cache), array.kept)
    from harpy_core.raster.formats.remote import RemoteStore, keep_array_in

    if isinstance(array, zarr.Array) and isinstance(array.store_path.store, RemoteStore):
        store = keep_array_in(array.store_path.store, array.path, cache)
        return zarr.open_array(store, path=array.path, mode="r")
    return array


# Elements -----------------------------------------------------------------------------------------


def _open_inside(
    group: zarr.Group, uri: str, kind: str, name: str | None, level: int, image: str = ""
) -> Element:
    """An image or labels by name: a SpatialData element, an OME-Zarr group, or a plain array."""
    if name is None:
        found = names_in(group, kind, image)
        if len(found) != 1:
            listed = ", ".join(found) or "none"
            raise InputError(f"{uri}: which {kind}? found {listed}; name one in the source")
        name = found[0]
    node = _named(group, kind, name, image)
    if node is None:
        listed = ", ".join(names_in(group, kind, image)) or "none"
        raise InputError(f"{uri}: {kind} {name!r} is not there; found {listed}")
    return _element(node, name, f"{uri}/{name}".rstrip("/"), kind, level)


def _named(group: zarr.Group, kind: str, name: str, image: str = "") -> Any:
    """What a name stands for: an element of this kind, labels of the image, or a path."""
    places = [f"{kind}/{name}"] if name else []
    if kind == "labels" and image:
        places.append(f"{image}/labels/{name}")
    nodes = (_node(group, place) for place in (*places, name))
    return next((node for node in nodes if node is not None), None)


def _node(group: zarr.Group, name: str) -> Any:
    try:
        return group[name] if name else group
    except KeyError:
        return None


def _metadata(group: zarr.Group) -> dict[str, Any]:
    """The NGFF metadata of a group: under ``ome`` since 0.5, before that among its attributes."""
    attributes: dict[str, Any] = group.attrs.asdict()
    return {**attributes, **attributes.get("ome", {})}


def _multiscales(group: zarr.Group) -> dict[str, Any] | None:
    found = _metadata(group).get("multiscales")
    return dict(found[0]) if found else None


def _element(
    node: zarr.Array | zarr.Group, name: str, where: str, kind: str, level: int
) -> Element:
    if isinstance(node, zarr.Array):
        _check_level(level if kind == "images" else 0, [node.shape], where)
        array = _with_axes(node, axes_of(kind, node.ndim), where, kind)
        return Element(name, array, None, None, [node.shape])
    scales = _multiscales(node)
    if scales is None:
        raise InputError(f"{where}: no multiscales in its metadata; name an image or an array")
    try:
        axes = tuple(a["name"] if isinstance(a, dict) else str(a) for a in scales["axes"])
        paths = [str(entry["path"]) for entry in scales["datasets"]]
        arrays = [_array(node, path) for path in paths]
        # Labels that have one level only may be those of the level that is asked for.
        chosen = 0 if kind == "labels" and len(arrays) == 1 else level
        shapes = [array.shape for array in arrays]
        _check_level(chosen, shapes, where)
        placed = placement(scales, scales["datasets"][chosen], axes)
        channels = _channel_names(node)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{where}: its multiscales metadata cannot be understood "
            f"({type(error).__name__}: {error}); write it again"
        ) from error
    return Element(name, _with_axes(arrays[chosen], axes, where, kind), channels, placed, shapes)


def _array(group: zarr.Group, path: str) -> zarr.Array:
    node = group[path]
    if not isinstance(node, zarr.Array):
        raise KeyError(path)
    return node


def axes_of(kind: str, count: int) -> tuple[str, ...]:
    """What the axes of an array mean that has no names for them.

    Parameters
    ----------
    kind
        ``images`` or ``labels``.
    count
        How many axes it has.
    """
    known = _ALL[kind]
    if count == len(known) - 1:
        return tuple(axis for axis in known if axis != "z")
    return known[-count:] if count <= len(known) else ("?",) * (count - len(known)) + known


def _check_level(level: int, shapes: Sequence[tuple[int, ...]], where: str) -> None:
    if not 0 <= level < len(shapes):
        raise InputError(f"{where}: no level {level}; there are 0 to {len(shapes) - 1}")


def _with_axes(array: zarr.Array, axes: tuple[str, ...], where: str, kind: str) -> Any:
    """The array with the axes that its kind has; others are left out where they are one pixel."""
    known = _ALL[kind]
    kept = [i for i, name in enumerate(axes) if name in known or array.shape[i] > 1]
    names = tuple(axes[i] for i in kept)
    _check_axes(kind, names, axes, where)
    if len(kept) == array.ndim:
        return array
    if any(n != 1 for i, n in enumerate(array.chunks) if i not in kept):
        raise InputError(
            f"{where}: chunks are {array.chunks}, longer than 1 along "
            f"{', '.join(name for name in axes if name not in names)}; rewrite it without that axis"
        )
    return AxesView(array, tuple(kept))


def _check_axes(kind: str, names: tuple[str, ...], axes: tuple[str, ...], where: str) -> None:
    """Refuse an array whose axes, those of one pixel left out, are not those of its kind."""
    whole = ", ".join(_ALL[kind])
    flat = ", ".join(axis for axis in _ALL[kind] if axis != "z")
    if ", ".join(names) not in (whole, flat):
        raise InputError(f"{where}: axes are {', '.join(axes)}; rewrite it as {flat} or {whole}")


def _channel_names(node: zarr.Group) -> list[str] | None:
    metadata = _metadata(node)
    listed = (metadata.get("omero") or metadata.get("channels_metadata") or {}).get("channels")
    if not listed or not all("label" in channel for channel in listed):
        return None
    return [str(channel["label"]) for channel in listed]


# Files of their own -------------------------------------------------------------------------------


def _lie_outside(
    uri: str, image: str | None, labels: str, storage_options: Mapping[str, Any] | None
) -> bool:
    return is_tiff(uri) or _is_outside(open_group(uri, storage_options), image or "", labels)


def _is_outside(group: zarr.Group, image: str, labels: str) -> bool:
    """Whether labels are named by a path or an address, and not as an element of the store."""
    if is_tiff(labels) or is_address(labels) or labels.startswith((".", "/")):
        return True
    return Path(labels).is_dir() and _named(group, "labels", labels, image) is None


def _beside(path: str, uri: str) -> str:
    """Labels as they are given, or beside the image."""
    given = Path(path)
    if is_address(path):
        return path
    if given.exists() or given.is_absolute() or is_address(uri):
        return str(given.absolute())
    return str(Path(uri).parent / given)


def _open_outside(
    path: str, uri: str, level: int, storage_options: Mapping[str, Any] | None
) -> Element:
    place = _beside(path, uri)
    if is_tiff(place) and not is_address(place):
        return _open_tiff(place, None, "labels", level)
    return _element(open_node(place, storage_options), place, place, "labels", level)


def _open_tiff(path: str, series: str | None, kind: str, level: int) -> Element:
    array = TiffArray(path, series, kind == "images")
    if level and (kind == "images" or len(array.levels) > 1):
        array = TiffArray(path, series, kind == "images", level)
    _check_axes(kind, array.axes, array.axes, path)
    return Element(series or path, array, array.channels, None, array.levels)


def _declared(uri: str) -> str | None:
    """The digest in the manifest beside a store that the workflow made."""
    if is_address(uri):
        return None
    manifest = Path(uri).with_suffix(".manifest.json")
    return read_manifest(manifest)["digest"] if manifest.is_file() else None
