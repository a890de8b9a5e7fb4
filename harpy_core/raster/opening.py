"""Open an image and its labels from what is on disk, and say what was found.

Level paths, axes and channel names are read from the metadata (SpatialData, OME-Zarr 0.4 and 0.5,
OME-TIFF), never assumed.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.storage import FsspecStore, LocalStore, ZipStore

from harpy_core.errors import InputError
from harpy_core.manifest import digest_of, read_manifest
from harpy_core.raster.info import RasterInfo
from harpy_core.raster.reading import ChannelView, check_arrays, is_dask
from harpy_core.raster.tiff import TiffArray, is_tiff

_SPATIAL = ("z", "y", "x")


@dataclass(frozen=True, slots=True)
class Raster:
    """An image with its labels.

    Attributes
    ----------
    image
        (c, y, x) or (c, z, y, x) array; a view of the chosen channels where not all were asked for.
    labels
        (y, x) or (z, y, x) array.
    channels
        A name for each channel of `image`.
    """

    image: Any
    labels: Any
    channels: list[str]


@dataclass(frozen=True, slots=True)
class _Element:
    """An array of a store, with what its metadata says of it."""

    array: Any
    axes: tuple[str, ...]
    channels: list[str] | None
    transformation: Any


def open_raster(
    uri: str | os.PathLike[str],
    image: str | None = None,
    labels: str | None = None,
    channels: Sequence[str] | None = None,
) -> Raster:
    """Open an image and its labels.

    Parameters
    ----------
    uri
        A SpatialData or OME-Zarr store (a folder, a zip, or an s3://, gs:// or https:// address),
        a group holding plain Zarr arrays, or a TIFF.
    image
        Element or group inside the store; not needed for a TIFF or where there is only one.
    labels
        Element or group inside the store, or the path of a label TIFF or Zarr array.
    channels
        Names of the channels to keep, in the order of the file; all without.

    Returns
    -------
    Raster

    Raises
    ------
    InputError
        Nothing there, no such element or channel, axes or shapes that do not match, labels that
        are no integers, a transformation that moves labels against the image.
    """
    uri = str(uri)
    if is_tiff(uri):
        pixels = _open_tiff(uri, image, channels=True)
        if labels is None:
            raise InputError(
                f"{uri}: a TIFF holds no labels; give labels = the path of a label TIFF"
            )
        segmentation = _open_labels_file(labels, uri)
    else:
        group = _open_group(uri)
        pixels = _open_element(group, uri, "images", image)
        segmentation = (
            _open_labels_file(labels, uri)
            if labels is not None and _lie_outside(group, labels)
            else _open_element(group, uri, "labels", labels)
        )
    _check_axes(pixels, ("c", *_SPATIAL), f"{uri}: image {image or ''}".rstrip())
    _check_axes(segmentation, _SPATIAL, f"{uri}: labels {labels or ''}".rstrip())
    check_arrays(pixels.array, segmentation.array)
    if pixels.transformation != segmentation.transformation:
        raise InputError(
            f"{uri}: labels {labels!r} are placed differently from image {image!r} "
            f"({segmentation.transformation} against {pixels.transformation}); "
            "resample the labels onto the image's pixels"
        )
    names = pixels.channels or [str(c) for c in range(pixels.array.shape[0])]
    return _with_channels(uri, pixels.array, segmentation.array, names, channels)


def _with_channels(
    uri: str, image: Any, labels: Any, names: list[str], wanted: Sequence[str] | None
) -> Raster:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{uri}: channel {twice[0]!r} stands more than once; rename one of them")
    if wanted is None:
        return Raster(image, labels, names)
    for name in wanted:
        if name not in names:
            raise InputError(
                f"{uri}: channel {name!r} is not there; choose from {', '.join(names)}"
            )
    kept = [i for i, name in enumerate(names) if name in set(wanted)]
    if len(kept) == len(names):
        return Raster(image, labels, names)
    return Raster(ChannelView(image, tuple(kept)), labels, [names[i] for i in kept])


def describe(
    uri: str | os.PathLike[str],
    image: str | None = None,
    labels: str | None = None,
    channels: Sequence[str] | None = None,
) -> RasterInfo:
    """What `open_raster` would open; see there for the parameters and errors."""
    raster = open_raster(uri, image, labels, channels)
    place = str(uri) if "://" in str(uri) else str(Path(uri).absolute())
    if labels is not None and _lie_outside(None if is_tiff(place) else _open_group(place), labels):
        labels = str(_beside(labels, place))
    return RasterInfo(
        uri=place,
        image=image,
        labels=labels,
        channels=raster.channels,
        image_shape=tuple(raster.image.shape),
        image_chunks=tuple(raster.image.chunks),
        image_dtype=str(np.dtype(raster.image.dtype)),
        labels_shape=tuple(raster.labels.shape),
        labels_chunks=tuple(raster.labels.chunks),
        labels_dtype=str(np.dtype(raster.labels.dtype)),
        fingerprint=_declared(place) or fingerprint(raster.image, raster.labels),
    )


def open_described(info: RasterInfo) -> Raster:
    """Open what `describe` described."""
    return open_raster(info.uri, info.image, info.labels, info.channels)


def _lie_outside(group: zarr.Group | None, labels: str) -> bool:
    """Whether labels are named by a path, and not as an element of the store."""
    if group is None or is_tiff(labels) or labels.startswith((".", "/")):
        return True
    inside = labels in _candidates(group, "labels") or _node(group, labels) is not None
    return not inside and Path(labels).is_dir()


def _beside(path: str, uri: str) -> Path:
    """A label path as it is given, or beside the image."""
    given = Path(path)
    if given.exists() or given.is_absolute():
        return given.absolute()
    return Path(uri).parent / given


# Zarr -------------------------------------------------------------------------------------------


def _open_group(uri: str) -> zarr.Group:
    try:
        if "://" in uri:
            return zarr.open_group(FsspecStore.from_url(uri, read_only=True), mode="r")
        path = Path(uri)
        if not path.exists():
            raise InputError(f"{uri}: nothing there; correct the path or make the store first")
        if path.is_dir():
            return zarr.open_group(LocalStore(path, read_only=True), mode="r")
        return _open_archive(path)
    except (FileNotFoundError, KeyError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{uri}: no Zarr group there ({type(error).__name__}); "
            "give a SpatialData or OME-Zarr store, or a TIFF"
        ) from error


def _open_archive(path: Path) -> zarr.Group:
    """The group inside a zip, at its root or in its only folder."""
    store = ZipStore(path, mode="r", read_only=True)
    root = zarr.open_group(store, mode="r") if _has_root(path) else None
    if root is not None:
        return root
    with zipfile.ZipFile(path) as archive:
        tops = {name.split("/", 1)[0] for name in archive.namelist() if "/" in name}
    if len(tops) != 1:
        raise InputError(f"{path}: {len(tops)} folders at the top; zip one store")
    return zarr.open_group(store, path=tops.pop(), mode="r")


def _has_root(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: neither a folder, a zip nor a TIFF; correct source.uri")
    with zipfile.ZipFile(path) as archive:
        return bool({"zarr.json", ".zgroup"} & set(archive.namelist()))


def _open_element(group: zarr.Group, uri: str, kind: str, name: str | None) -> _Element:
    """An image or labels by name: a SpatialData element, an OME-Zarr group, or a plain array."""
    found = _candidates(group, kind)
    if name is None:
        if len(found) != 1:
            listed = ", ".join(found) or "none"
            raise InputError(f"{uri}: which {kind}? found {listed}; name one in the source")
        name = next(iter(found))
    node = found.get(name) or _node(group, name)
    if node is None:
        listed = ", ".join(found) or "none"
        raise InputError(f"{uri}: {kind} {name!r} is not there; found {listed}")
    return _element(node, f"{uri}/{name}", 4 if kind == "images" else 3)


def _candidates(group: zarr.Group, kind: str) -> dict[str, Any]:
    """What may be meant when no name is given, by name."""
    below = _node(group, kind)
    if isinstance(below, zarr.Group):
        return dict(below.members())
    if kind == "images" and _multiscales(group):
        return {"": group}
    return {}


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


def _element(node: zarr.Array | zarr.Group, where: str, axes: int) -> _Element:
    if isinstance(node, zarr.Array):
        plain = ("c", *_SPATIAL)[-axes:]
        if node.ndim == axes - 1:
            plain = tuple(n for n in plain if n != "z")
        return _Element(node, plain[-node.ndim :], None, None)
    scales = _multiscales(node)
    if scales is None:
        raise InputError(f"{where}: no multiscales in its metadata; name an image or an array")
    level = scales["datasets"][0]
    array = node[level["path"]]
    names = tuple(axis["name"] if isinstance(axis, dict) else axis for axis in scales["axes"])
    return _Element(array, names, _channel_names(node), _placement(scales, level, names))


def _channel_names(node: zarr.Group) -> list[str] | None:
    metadata = _metadata(node)
    listed = (metadata.get("omero") or metadata.get("channels_metadata") or {}).get("channels")
    return [str(channel["label"]) for channel in listed] if listed else None


def _placement(scales: dict[str, Any], level: dict[str, Any], axes: tuple[str, ...]) -> Any:
    """Scale and shift of the spatial axes in the common coordinate system; None where neither."""
    size = np.ones(len(axes))
    shift = np.zeros(len(axes))
    steps = [
        *level.get("coordinateTransformations", []),
        *scales.get("coordinateTransformations", []),
    ]
    for step in steps:
        for part in step.get("transformations", [step]):
            if part["type"] == "scale":
                size, shift = size * part["scale"], shift * part["scale"]
            elif part["type"] == "translation":
                shift = shift + part["translation"]
            elif part["type"] != "identity":
                return {"axes": axes, **part}
    keep = [i for i, axis in enumerate(axes) if axis in _SPATIAL]
    scale, translation = size[keep].tolist(), shift[keep].tolist()
    if all(s == 1 for s in scale) and not any(translation):
        return None
    return {"scale": scale, "translation": translation}


def _check_axes(element: _Element, allowed: tuple[str, ...], where: str) -> None:
    optional = tuple(a for a in allowed if a != "z")
    if element.axes not in (allowed, optional):
        raise InputError(
            f"{where}: axes are {', '.join(element.axes)}; "
            f"rewrite it as {', '.join(optional)} or {', '.join(allowed)}"
        )


def _open_labels_file(path: str, uri: str) -> _Element:
    place = str(_beside(path, uri))
    if is_tiff(place):
        return _open_tiff(place, None)
    if not Path(place).exists():
        raise InputError(f"{place}: nothing there; correct the path of the labels")
    try:
        node = zarr.open(LocalStore(place, read_only=True), mode="r")
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise InputError(f"{place}: neither a TIFF nor a Zarr array; correct the path") from error
    return _element(node, place, 3)


def _open_tiff(path: str, series: str | None, channels: bool = False) -> _Element:
    array = TiffArray(path, series, channels)
    return _Element(array, array.axes, array.channels, None)


# Fingerprints -----------------------------------------------------------------------------------


def fingerprint(*arrays: Any, times: bool = True) -> str:
    """Digest of what tells one input from another, without reading the pixels of a file.

    Parameters
    ----------
    arrays
        What `open_raster` opened, NumPy or Dask arrays.
    times
        Take the files' times of change in; without, copies of a store have one fingerprint.
    """
    return digest_of([_facts(array, times) for array in arrays])


def _facts(array: Any, times: bool) -> list[Any]:
    if is_dask(array):
        return [array.name, list(array.shape)]
    if isinstance(array, np.ndarray):
        content = hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return [list(array.shape), str(array.dtype), content.hexdigest()]
    if isinstance(array, ChannelView):
        return [list(array.indices), *_facts(array.array, times)]
    if isinstance(array, TiffArray):
        return [array.path, str(array.series), _stat(Path(array.path), times)]
    facts: list[Any] = [list(array.shape), str(array.dtype), list(array.chunks)]
    store = array.store_path.store
    if isinstance(store, LocalStore):
        root = Path(store.root) / array.path
        facts += [[str(f.relative_to(root)), *_stat(f, times)] for f in sorted(_files(root))]
    elif isinstance(store, ZipStore):
        facts += [array.path, *_stat(Path(store.path), times)]
    else:
        facts += [str(array.store_path)]
    return facts


def _files(root: Path) -> list[Path]:
    return [Path(folder) / name for folder, _, names in os.walk(root) for name in names]


def _stat(path: Path, times: bool) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns] if times else [found.st_size]


def _declared(uri: str) -> str | None:
    """The digest in the manifest beside a store that the workflow made."""
    manifest = Path(uri).with_suffix(".manifest.json")
    return read_manifest(manifest)["digest"] if manifest.is_file() else None
