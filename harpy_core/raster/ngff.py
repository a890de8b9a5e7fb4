"""Images and labels in a Zarr group: SpatialData, OME-Zarr 0.4 and 0.5, and plain arrays.

Level paths, axes, channel names and placement are read from the metadata, never assumed. Reaching a
group is up to its format.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import zarr
from zarr.core.sync import sync

from harpy_core.errors import InputError
from harpy_core.raster import axes as axes_names
from harpy_core.raster import spacing
from harpy_core.raster.formats.format import Element, Storage, listed
from harpy_core.raster.placement import placement
from harpy_core.raster.views import AxesView

_SHUFFLES = ("no shuffle", "shuffle", "bitshuffle")
"""Names of the shuffles that numcodecs calls 0, 1 and 2."""


def open_image(group: zarr.Group, uri: str, name: str | None, level: int) -> Element:
    """Open an image of a store; without a name, the only one."""
    return _open_inside(group, uri, "images", name, level)


def open_labels(
    group: zarr.Group, uri: str, name: str | None, image: str | None, level: int, elsewhere: bool
) -> Element | None:
    """Open labels of a store; None if it has none of the name, but something `elsewhere` has."""
    if elsewhere and name is not None and named(group, "labels", name, image or "") is None:
        return None
    return _open_inside(group, uri, "labels", name, level, image or "")


def names_in(group: zarr.Group, kind: str, image: str = "") -> list[str]:
    """Names of the images or labels of a store, as `open_raster` takes them.

    Parameters
    ----------
    group
        Root of the store.
    kind
        ``images`` or ``labels``.
    image
        Image whose labels are meant, if they lie below it.
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


def _open_inside(
    group: zarr.Group, uri: str, kind: str, name: str | None, level: int, image: str = ""
) -> Element:
    """Open an image or labels: a SpatialData element, an OME-Zarr group, or a plain array."""
    if name is None:
        found = names_in(group, kind, image)
        if len(found) != 1:
            listed = ", ".join(found) or "none"
            raise InputError(f"{uri}: which {kind}? found {listed}; name one in the source")
        name = found[0]
    node = named(group, kind, name, image)
    if node is None:
        listed = ", ".join(names_in(group, kind, image)) or "none"
        raise InputError(f"{uri}: {kind} {name!r} is not there; found {listed}")
    return element(node, name, f"{uri}/{name}".rstrip("/"), kind, level)


def named(group: zarr.Group, kind: str, name: str, image: str = "") -> Any:
    """Find a node by name: an element of this kind, labels of the image, or a path."""
    places = [f"{kind}/{name}"] if name else []
    if kind == "labels" and image:
        places.append(f"{image}/labels/{name}")
    nodes = (_node(group, place) for place in (*places, name))
    return next((node for node in nodes if node is not None), None)


def _node(group: zarr.Group, name: str) -> Any:
    try:
        return group[name] if name else group
    except (KeyError, ValueError):
        # Zarr takes no name with dots or empty parts, as a path outside the store may have.
        return None


def _metadata(group: zarr.Group) -> dict[str, Any]:
    """NGFF metadata of a group: under ``ome`` since 0.5, before that among its attributes."""
    attributes: dict[str, Any] = group.attrs.asdict()
    return {**attributes, **attributes.get("ome", {})}


def _multiscales(group: zarr.Group) -> dict[str, Any] | None:
    found = _metadata(group).get("multiscales")
    return dict(found[0]) if found else None


def element(node: zarr.Array | zarr.Group, name: str, where: str, kind: str, level: int) -> Element:
    """Open a node of a store as an image or labels.

    Parameters
    ----------
    node
        Multiscale group or plain array.
    name
        Name of the element.
    where
        Name of the node in an error.
    kind
        ``images`` or ``labels``.
    level
        Number of the resolution; labels with only one have it for all.
    """
    if isinstance(node, zarr.Array):
        _check_level(level if kind == "images" else 0, [node.shape], where)
        array = _with_axes(node, axes_names.of(kind, node.ndim), where, kind)
        return Element(name, array, None, None, [node.shape])
    scales = _multiscales(node)
    if scales is None:
        raise InputError(f"{where}: no multiscales in its metadata; name an image or an array")
    try:
        axes = tuple(a["name"] if isinstance(a, dict) else str(a) for a in scales["axes"])
        paths = [str(entry["path"]) for entry in scales["datasets"]]
        arrays = [_array(node, path) for path in paths]
        # Labels with only one level may be those of the level that is asked for.
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
    array = _with_axes(arrays[chosen], axes, where, kind)
    sides = spacing.of_multiscale(scales["axes"], placed)
    return Element(name, array, channels, placed, shapes, sides=sides)


def _array(group: zarr.Group, path: str) -> zarr.Array:
    node = group[path]
    if not isinstance(node, zarr.Array):
        raise KeyError(path)
    return node


def _check_level(level: int, shapes: Sequence[tuple[int, ...]], where: str) -> None:
    if not 0 <= level < len(shapes):
        raise InputError(f"{where}: no level {level}; there are 0 to {len(shapes) - 1}")


def _with_axes(array: zarr.Array, axes: tuple[str, ...], where: str, kind: str) -> Any:
    """Return the array with its kind's axes; others of one pixel are left out."""
    known = axes_names.ALL[kind]
    kept = [i for i, name in enumerate(axes) if name in known or array.shape[i] > 1]
    names = tuple(axes[i] for i in kept)
    axes_names.check(kind, names, axes, where)
    if len(kept) == array.ndim:
        return array
    if any(n != 1 for i, n in enumerate(array.chunks) if i not in kept):
        raise InputError(
            f"{where}: chunks are {array.chunks}, longer than 1 along "
            f"{', '.join(name for name in axes if name not in names)}; rewrite it without that axis"
        )
    return AxesView(array, tuple(kept))


def _channel_names(node: zarr.Group) -> list[str] | None:
    metadata = _metadata(node)
    listed = (metadata.get("omero") or metadata.get("channels_metadata") or {}).get("channels")
    if not listed or not all("label" in channel for channel in listed):
        return None
    return [str(channel["label"]) for channel in listed]


# Descriptions -------------------------------------------------------------------------------------


def contents(group: zarr.Group, image: str) -> Iterator[tuple[str, str]]:
    """Yield the kind of store, and the names of its elements, for people."""
    yield "store", f"Zarr {group.metadata.zarr_format}, {_convention(group)}"
    for kind in ("images", "labels"):
        names = names_in(group, kind, image)
        shown = [name or "the store itself" for name in names]
        plain = [n for n, _ in group.members()] if not names and kind == "images" else []
        other = f"none declared; there are {listed(plain)}" if plain else "none declared"
        yield kind, listed(shown) if shown else other


def _convention(group: zarr.Group) -> str:
    attributes: dict[str, Any] = group.attrs.asdict()
    if "spatialdata_attrs" in attributes:
        return f"SpatialData {attributes['spatialdata_attrs'].get('version', '')}".rstrip()
    ome = {**attributes, **attributes.get("ome", {})}
    if "multiscales" in ome:
        version = ome.get("version") or ome["multiscales"][0].get("version", "")
        return f"OME-Zarr {version}".rstrip()
    return "plain arrays"


def shape_facts(array: zarr.Array) -> list[Any]:
    """Metadata of an array that decide how its files are read."""
    return [list(array.shape), str(array.dtype), list(array.chunks)]


def storage(array: zarr.Array, count: int) -> Storage:
    """Codec, shards, and the sizes of some files, evenly from the first corner to the last."""
    unit = tuple(array.shards or array.chunks)
    sizes = [_stored_size(array, index) for index in diagonal(array.shape, unit, count)]
    steps = [*array.filters, *array.compressors]
    return Storage(unit, ", ".join(_codec_name(step) for step in steps) or "none", sizes)


def diagonal(shape: Sequence[int], unit: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """Indices of at most `count` units of an array, evenly from its first corner to its last."""
    grid = [-(-n // c) for n, c in zip(shape, unit, strict=True)]
    places = [tuple((2 * i + 1) * n // (2 * count) for n in grid) for i in range(count)]
    return sorted(set(places)) if all(grid) else []


def _stored_size(array: zarr.Array, index: tuple[int, ...]) -> int | None:
    """Bytes of the object that holds a chunk or a shard; None where there is none."""
    key = f"{array.path}/{array.metadata.encode_chunk_key(index)}".lstrip("/")
    try:
        return int(sync(array.store_path.store.getsize(key)))
    except (FileNotFoundError, KeyError):
        return None


def _codec_name(codec: Any) -> str:
    if hasattr(codec, "get_config"):
        settings = codec.get_config()
        name = settings.pop("id")
    else:
        written = codec.to_dict()
        name, settings = written["name"], written.get("configuration", {})
    shown = [settings[key] for key in ("cname", "clevel", "level", "shuffle") if key in settings]
    if isinstance(settings.get("shuffle"), int) and 0 <= settings["shuffle"] < len(_SHUFFLES):
        shown[-1] = _SHUFFLES[settings["shuffle"]]
    return " ".join(map(str, (name, *shown)))
