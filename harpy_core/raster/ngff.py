"""Images and labels in a Zarr group: SpatialData, OME-Zarr 0.1 to 0.5, and plain arrays.

Level paths, axes, channel names and placement are read from the metadata, never assumed. Reaching a
group is up to its format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import zarr
from zarr.core.sync import sync

from harpy_core.errors import InputError
from harpy_core.raster import axes as axes_names
from harpy_core.raster import spacing
from harpy_core.raster.formats.format import (
    Choice,
    Element,
    Storage,
    chosen_level,
    listed,
)
from harpy_core.raster.placement import placement

_ALL = ("t", "c", "z", "y", "x")
"""Axes of all images until version 0.2, in order."""

_DEPTH = 4
"""Groups inside each other that are searched for arrays."""

_SHUFFLES = ("no shuffle", "shuffle", "bitshuffle")
"""Names of the shuffles that numcodecs calls 0, 1 and 2."""


def open_image(group: zarr.Group, uri: str, name: str | None, choice: Choice) -> Element:
    """Open an image of a store; without a name, the only one."""
    return _open_inside(group, uri, "images", name, choice)


def open_labels(
    group: zarr.Group,
    uri: str,
    name: str | None,
    image: str | None,
    choice: Choice,
    elsewhere: bool,
) -> Element | None:
    """Open labels of a store; None if it has none of the name, but something `elsewhere` has."""
    if elsewhere and name is not None and named(group, "labels", name, image or "") is None:
        return None
    return _open_inside(group, uri, "labels", name, choice, image or "")


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
    plate = _fields(group, "") if kind == "images" else []
    if plate:
        return plate
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
    group: zarr.Group, uri: str, kind: str, name: str | None, choice: Choice, image: str = ""
) -> Element:
    """Open an image or labels: a SpatialData element, an OME-Zarr group, or a plain array."""
    if name is None:
        found = names_in(group, kind, image)
        if len(found) != 1:
            raise InputError(f"{uri}: which {kind}? {_choice_of(group, found)}")
        name = found[0]
    fields = _fields(group, name) if kind == "images" and name else []
    if len(fields) > 1:
        raise InputError(f"{uri}: which {kind}? {name} is a well; {_choice_of(group, fields)}")
    name = fields[0] if fields else name
    node = named(group, kind, name, image)
    if node is None:
        found = names_in(group, kind, image)
        raise InputError(f"{uri}: {kind} {name!r} is not there; {_choice_of(group, found)}")
    node, choice = _as_level(group, node, kind, choice)
    return element(node, name, f"{uri}/{name}".rstrip("/"), kind, choice)


def _fields(group: zarr.Group, name: str) -> list[str]:
    """Paths of the fields of view of a plate, or of a well of one; none of anything else."""
    node = _node(group, name)
    if not isinstance(node, zarr.Group):
        return []
    metadata = _metadata(node)
    wells = [str(well["path"]) for well in metadata.get("plate", {}).get("wells", [])]
    if wells:
        return [field for well in wells for field in _fields(group, f"{name}/{well}".strip("/"))]
    images = metadata.get("well", {}).get("images", [])
    return [f"{name}/{image['path']}".strip("/") for image in images]


def _choice_of(group: zarr.Group, found: Sequence[str]) -> str:
    """Return what there is to choose from: elements or, if there are none, plain arrays."""
    if found:
        return f"found {listed(found)}; name one in the source"
    arrays = [
        f"{name} ({' x '.join(map(str, array.shape))} {array.dtype})"
        for name, array in _arrays_below(group)
    ]
    if not arrays:
        return "found none"
    return f"found none, but the arrays {listed(arrays)}; name one in the source"


def _arrays_below(group: zarr.Group) -> list[tuple[str, zarr.Array]]:
    """Arrays of a store, by their paths in it, as far as its server lists them."""
    found = group.members(max_depth=_DEPTH)
    return sorted((name, node) for name, node in found if isinstance(node, zarr.Array))


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


def _as_level(group: zarr.Group, node: Any, kind: str, choice: Choice) -> tuple[Any, Choice]:
    """Return the multiscale that an array is a level of, with that level chosen; or the node."""
    if not isinstance(node, zarr.Array):
        return node, choice
    parts = node.path[len(group.path) :].strip("/").split("/")
    for length in reversed(range(len(parts))):
        above = _node(group, "/".join(parts[:length]))
        scales = _multiscales(above) if isinstance(above, zarr.Group) else None
        paths = [entry.get("path") for entry in scales.get("datasets", [])] if scales else []
        own = "/".join(parts[length:])
        if own in paths:
            number = paths.index(own)
            if kind == "images" and str(choice.level) not in ("0", str(number), own):
                raise InputError(f"{node.path}: it is a level of its image; leave level out")
            return above, replace(choice, level=number, fits=None)
    return node, choice


def element(
    node: zarr.Array | zarr.Group, name: str, where: str, kind: str, choice: Choice
) -> Element:
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
    choice
        Level, axes and time point.
    """
    if isinstance(node, zarr.Array):
        found = axes_names.of(kind, node.ndim)
        if choice.axes is not None:
            found = axes_names.named(kind, found, node.shape, choice.axes, where)
        alone = [axes_names.spatial(node.shape, found)]
        chosen_level(kind, choice, ["0"], alone, where)
        array = axes_names.arranged(node, found, kind, choice.t, where)
        return Element(name, array, None, None, [node.shape])
    scales = _multiscales(node)
    if scales is None:
        raise InputError(f"{where}: no multiscales in its metadata; name an image or an array")
    try:
        paths = [str(entry["path"]) for entry in scales["datasets"]]
        arrays = [_array(node, path) for path in paths]
        shapes = [array.shape for array in arrays]
        axes = _axes(scales, kind, shapes[0], choice.axes, where)
        spatial = [axes_names.spatial(shape, axes) for shape in shapes]
        chosen = chosen_level(kind, choice, paths, spatial, where)
        placed = placement(scales, scales["datasets"][chosen], axes)
        channels = _channel_names(node)
    except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{where}: its multiscales metadata cannot be understood "
            f"({type(error).__name__}: {error}); write it again"
        ) from error
    array = axes_names.arranged(arrays[chosen], axes, kind, choice.t, where)
    sides = spacing.of_multiscale(scales.get("axes", []), placed)
    return Element(name, array, channels, placed, shapes, chosen, sides)


def _axes(
    scales: Mapping[str, Any], kind: str, shape: Sequence[int], stated: str | None, where: str
) -> tuple[str, ...]:
    """Names of a multiscale's axes; without any, as until version 0.2, they are t, c, z, y, x."""
    listed = scales.get("axes")
    if listed:
        found = [a["name"] if isinstance(a, dict) else str(a) for a in listed]
    elif stated is not None or len(shape) == len(_ALL):
        found = [*_ALL]
    else:
        raise InputError(
            f"{where}: {len(shape)} axes, and nothing names them: state them, such as axes: cyx"
        )
    return axes_names.named(kind, found, shape, stated, where)


def _array(group: zarr.Group, path: str) -> zarr.Array:
    node = group[path]
    if not isinstance(node, zarr.Array):
        raise KeyError(path)
    return node


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
