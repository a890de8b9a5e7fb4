"""Opening of an image and its labels, on disk or at an address.

Formats recognise and open sources (`harpy_core.raster.formats`); whether image and labels belong
together is decided here.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harpy_core.config.addresses import expanded
from harpy_core.config.models import MissingChunks
from harpy_core.errors import InputError, understood
from harpy_core.raster import axes as axes_names
from harpy_core.raster.channel_list import read_names
from harpy_core.raster.fingerprints import fingerprint
from harpy_core.raster.formats import beside, format_of, is_apart, remote, stem
from harpy_core.raster.formats.format import Choice, Element
from harpy_core.raster.info import RasterInfo
from harpy_core.raster.overlay import Laid, Sides, laid_on
from harpy_core.raster.raster import Raster, channel_names
from harpy_core.raster.raster import label_connected as connected_labels
from harpy_core.raster.spacing import along
from harpy_core.raster.views import AxesView, ChannelView, whole_image
from harpy_core.storage.manifest import digest_of, read_manifest

_AS_IT_IS = Laid()


def open_raster(
    uri: str | os.PathLike[str],
    image: str | None = None,
    labels: str | None = None,
    channels: Sequence[str] | str | os.PathLike[str] | None = None,
    *,
    level: int | str = 0,
    labels_level: int | str | None = None,
    axes: str | None = None,
    t: int | None = None,
    label_connected: bool = False,
    labels_scale: Sides | None = None,
    labels_translation: Sides | None = None,
    labels_nearest: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> Raster:
    """Open an image and its labels.

    Parameters
    ----------
    uri
        SpatialData or OME-Zarr store (a folder, a zip, or an s3://, gs:// or https:// address),
        group with plain Zarr arrays, TIFF (of a multi-file OME-TIFF, any file of the set), or
        folder of TIFFs, one per channel.
    image
        Element or group inside the store, or name or number of a TIFF's series; not needed if
        there is only one.
    labels
        Element or group inside the store, or the path or address of a label TIFF or Zarr array, or
        the path of polygons, as in `harpy_core.read_polygons`.
    channels
        Names of the channels to keep, in the order of the file; of an image that names none, the
        names of all its channels. Or the path of a text with such names, one a line, or in a column
        ``marker_name`` or ``name`` of a table. None keeps all.
    level
        Resolution of a multiscale image and of its labels, by number or by its name in the
        metadata; 0 is the finest.
    labels_level
        Resolution of the labels, likewise; None takes that of the image's shape.
    axes
        Names of the image's axes as they are stored, one letter each, such as ``zcyx``; None takes
        those of the file.
    t
        Number of the time point, if there are several.
    label_connected
        Whether labels are a binary mask, whose connected pieces are numbered as
        `harpy_core.label_connected` does.
    labels_scale, labels_translation, labels_nearest
        Place of the labels on the image, as in `harpy_core.place_labels`: pixels of the image along
        one of the labels (of polygons, along 1), those before the first, and whether labels at the
        centres of pixels are taken where they do not fit. None and None: as the metadata say, if
        they make whole pixels of the image of each pixel of the labels, inside the image.
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
        There is nothing, no access, or no such element, level, time point or channel; axes or
        shapes do not match, labels are not integers, or a transformation moves them against the
        image.
    """
    choice = Choice(level, axes, t, storage_options)
    laid = Laid(labels_scale, labels_translation, labels_nearest)
    return _opened(
        expanded(str(uri)),
        image,
        labels,
        channels,
        choice,
        labels_level,
        cache,
        label_connected,
        laid,
    ).raster


def describe(
    uri: str | os.PathLike[str],
    image: str | None = None,
    labels: str | None = None,
    channels: Sequence[str] | str | os.PathLike[str] | None = None,
    *,
    level: int | str = 0,
    labels_level: int | str | None = None,
    axes: str | None = None,
    t: int | None = None,
    label_connected: bool = False,
    labels_scale: Sides | None = None,
    labels_translation: Sides | None = None,
    labels_nearest: bool = False,
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
    uri = expanded(str(uri))
    place = os.path.abspath(uri) if format_of(uri).LOCAL else uri
    choice = Choice(level, axes, t, storage_options)
    laid = Laid(labels_scale, labels_translation, labels_nearest)
    opened = _opened(
        place, image, labels, channels, choice, labels_level, cache, label_connected, laid
    )
    raster, apart, named = opened.raster, opened.apart, opened.named
    found = _declared(place, raster, apart) or raster.fingerprint or ""
    if found and laid.facts:
        found = digest_of([found, laid.facts])
    return dataclasses.replace(
        raster.info(),
        uri=place,
        image=image,
        labels=apart or labels,
        fingerprint=digest_of([found, named]) if found and named else found,
        files=_files(place, raster, apart),
        level=level,
        labels_level=labels_level,
        axes=axes,
        t=t,
        label_connected=label_connected,
        labels_scale=labels_scale,
        labels_translation=labels_translation,
        labels_nearest=labels_nearest,
        storage_options=dict(storage_options or {}),
        cache=None if cache is None else os.path.abspath(cache),
        missing=missing_chunks,
        named=named,
    )


def open_described(info: RasterInfo) -> Raster:
    """Open what `describe` described.

    Raises
    ------
    InputError
        The source has changed since it was described.
    """
    laid = Laid(info.labels_scale, info.labels_translation, info.labels_nearest)
    opened = _of_description(info, laid)
    raster, apart = opened.raster, opened.apart
    if info.files and _files(info.uri, raster, apart) != info.files:
        raise InputError(
            f"{info.uri}: its files are not those that were described: they changed since; run "
            "again from the description, and what was made of them is made anew"
        )
    return raster


@dataclasses.dataclass(frozen=True, slots=True)
class _Opened:
    """A raster, the place of labels that are a file of their own, and names that were given."""

    raster: Raster
    apart: str | None
    named: list[str]


def open_layer(
    info: RasterInfo,
    labels: str,
    scale: Sides | None = None,
    translation: Sides | None = None,
    label_connected: bool = False,
) -> Raster:
    """Open the image that `describe` described with other labels.

    Parameters
    ----------
    info
        The image.
    labels
        Name of an element, or path or address, as in `open_raster`.
    scale, translation
        Their place on the image, as ``labels_scale`` and ``labels_translation`` there.
    label_connected
        Whether they are a binary mask, likewise.

    Raises
    ------
    InputError
        See `open_raster`.
    """
    other = dataclasses.replace(
        info, labels=labels, labels_level=None, label_connected=label_connected
    )
    return _of_description(other, Laid(scale, translation, keys="")).raster


def _of_description(info: RasterInfo, laid: Laid) -> _Opened:
    """Open the files that a description names, whether or not they are those that it described."""
    return _opened(
        info.uri,
        info.image,
        info.labels,
        info.channels,
        Choice(info.level, info.axes, info.t, info.storage_options),
        info.labels_level,
        info.cache,
        info.label_connected,
        laid,
        info.named,
    )


def _opened(
    uri: str,
    image: str | None,
    labels: str | None,
    channels: Sequence[str] | str | os.PathLike[str] | None,
    choice: Choice,
    labels_level: int | str | None,
    cache: str | os.PathLike[str] | None,
    connected: bool,
    laid: Laid,
    named: Sequence[str] = (),
) -> _Opened:
    """Open an image and its labels; `named` are the names of all channels, known from before."""
    labels = None if labels is None else expanded(labels)
    found_elements = find_elements(uri, image, labels, choice, labels_level)
    pixels, segmentation = (
        dataclasses.replace(e, array=_kept(e.array, cache)) for e in found_elements
    )
    checked = check_elements(uri, pixels, segmentation, connected, laid)
    found = checked.channels
    if named and not isinstance(channels, str | os.PathLike):
        names, wanted = [*named], channels
    else:
        names, wanted = given_names(uri, channels, pixels.channels, found)
    image_array, label_array = pixels.array, checked.labels
    chosen = chosen_channels(uri, names, wanted)
    if len(chosen) < len(names):
        image_array = ChannelView(image_array, tuple(chosen))
    apart = (
        None if labels is None or segmentation.name != beside(labels, uri) else segmentation.name
    )
    name = segmentation.name if apart is None else stem(apart)
    raster = Raster.of(image_array, {name: label_array}, [names[i] for i in chosen])
    raster = dataclasses.replace(raster, spacing=checked.spacing)
    return _Opened(raster, apart, names if names != found else [])


def _files(uri: str, raster: Raster, apart: str | None) -> str:
    """Identity of a source's files: declared by a store of ours, or found on disk."""
    declared = _declared(uri, raster, apart)
    return declared or fingerprint(whole_image(raster.image), raster.labels) or ""


def find_elements(
    uri: str | os.PathLike[str],
    image: str | None,
    labels: str | None,
    choice: Choice,
    labels_level: int | str | None = None,
) -> tuple[Element, Element]:
    """Open an image and its labels separately; whether they belong together is not checked.

    See `open_raster` for the parameters and errors.
    """
    uri = str(uri)
    source = format_of(uri)
    elsewhere = labels is not None and (is_apart(labels) or os.path.isdir(beside(labels, uri)))
    with understood(uri):
        pixels = source.open_image(uri, image, choice)
        choice = _of_labels(choice, pixels, labels_level)
        inside = source.open_labels(uri, labels, pixels.name, choice, elsewhere)
    if inside is not None or labels is None:
        assert inside is not None
        return pixels, inside
    place = beside(labels, uri)
    with understood(place):
        return pixels, format_of(place).open_alone(place, choice)


def _of_labels(choice: Choice, image: Element, level: int | str | None) -> Choice:
    """Return what is asked of the labels: a level, or the one that fits the image."""
    if level is not None:
        return dataclasses.replace(choice, level=level)
    shape = tuple(image.array.shape)
    fits = axes_names.spatial(shape, axes_names.of("images", len(shape)))
    return dataclasses.replace(choice, fits=fits)


# Image and labels together ------------------------------------------------------------------------


def check_elements(
    uri: str, image: Element, labels: Element, connected: bool = False, laid: Laid = _AS_IT_IS
) -> Raster:
    """Make the raster of an image and its labels, if they belong together.

    Raises
    ------
    InputError
        Shapes, types or placement do not match, or channel names are not unique.
    """
    with understood(uri):
        array = connected_labels(labels.array) if connected else labels.array
        placed = laid_on(uri, image, dataclasses.replace(labels, array=array), laid)
        raster = Raster.of(image.array, placed)
    where = f"{uri}: channels of the image{_called(image)}"
    names = channel_names(image.channels, len(raster.channels), where)
    sides = along(image.sides, axes_names.of("labels", labels.array.ndim))
    return dataclasses.replace(raster, channels=names, spacing=sides)


def _called(image: Element) -> str:
    return f" {image.name!r}" if image.name else ""


def given_names(
    uri: str,
    channels: Sequence[str] | str | os.PathLike[str] | None,
    own: Sequence[str] | None,
    found: list[str],
) -> tuple[list[str], Sequence[str] | None]:
    """Return the names of all channels, and of those that are wanted; None for all.

    Parameters
    ----------
    uri
        Place of the image, for an error.
    channels
        Names, or the path of a text with names.
    own
        Names in the file; None if it has none.
    found
        Those names, or numbers.

    Raises
    ------
    InputError
        There are too few or too many names, or those of the file in another order.
    """
    if isinstance(channels, str | os.PathLike):
        listed = read_names(channels)
        where = f"{channels}: names"
        if own is not None and listed != list(own) and sorted(listed) == sorted(own):
            raise InputError(
                f"{channels}: the names are those of {uri} in another order; leave channels out, "
                "and the file's own names are used"
            )
        return channel_names(listed, len(found), where), None
    if channels is None or own is not None or set(channels) <= set(found):
        return found, channels
    if len(channels) != len(found):
        raise InputError(
            f"{uri}: names none of its {len(found)} channels, and {len(channels)} names are given: "
            "name each of them"
        )
    return channel_names(channels, len(found)), None


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
        return dataclasses.replace(array, array=_kept(array.array, cache))
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
