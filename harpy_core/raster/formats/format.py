"""Interface of a format: its addresses, its elements, its arrays.

A format is a module with these functions and a line in `harpy_core.raster.formats`. The workflow
imports all of them while it is parsed, so slow imports are made where they are used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from harpy_core.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from harpy_core.raster.placement import Placement

Stamp = tuple[str, int, int]
"""Name, size and time of change (in nanoseconds) of a file."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What is asked of a source, besides the names of its elements.

    Attributes
    ----------
    level
        Number or name of the resolution; 0 is the finest.
    axes
        Names of the image's axes as they are stored, such as ``zcyx``; None: as the file says.
    t
        Number of the time point; None where there is only one.
    options
        Options of fsspec for an address, by its protocol.
    fits
        Pixels along z, y and x that labels should have; None: those of their level.
    """

    level: int | str = 0
    axes: str | None = None
    t: int | None = None
    options: Mapping[str, Any] | None = None
    fits: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Element:
    """An image or labels, with its metadata.

    Attributes
    ----------
    name
        Its name inside the source, or its path if it is a file of its own.
    array
        Array of the chosen level, (c, y, x) or (c, z, y, x) if it is an image.
    channels
        Names from the metadata; None if it has none.
    placed
        Placement in each coordinate system; None if the metadata has none.
    levels
        Shapes of all its resolutions, as they are stored.
    level
        Number of the one that was chosen.
    sides
        Side of a pixel along each spatial axis for which the metadata have one, in micrometres.
    """

    name: str
    array: Any
    channels: list[str] | None
    placed: Placement | None
    levels: list[tuple[int, ...]]
    level: int = 0
    sides: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Storage:
    """Storage of an array, with a sample of its files.

    Attributes
    ----------
    unit
        Pixels of a file or segment along each axis: of a shard, if there are shards.
    codec
        Filters and compressors, with their settings.
    sizes
        Stored bytes of some units; None for one that is missing.
    """

    unit: tuple[int, ...]
    codec: str
    sizes: list[int | None]


@dataclass(frozen=True, slots=True)
class ReusableFiles:
    """Local files that another array can have as its own, such as by links.

    Attributes
    ----------
    unit
        Pixels of a file along each axis.
    encoding
        Arguments with which zarr creates an array that decodes them.
    path
        Path of a file, by its number along each axis.
    """

    unit: tuple[int, ...]
    encoding: dict[str, Any]
    path: Callable[[tuple[int, ...]], Path]


class ChunkSource(Protocol):
    """The chunks of an array, decoded one by one; can be sent to a worker.

    Attributes
    ----------
    name
        Name of the array in an error.
    """

    name: str

    def read(self, index: tuple[int, ...], out: np.ndarray) -> bool:
        """Decode a chunk into `out`, of a chunk's full shape and in native byte order.

        Returns
        -------
        Whether the chunk is there; if it may be missing and is, `out` holds the fill value.
        """


@runtime_checkable
class StoredChunks(Protocol):
    """Chunks that can also be read as they are stored, for an engine that decodes them itself."""

    def stored(self, index: tuple[int, ...]) -> np.ndarray | None:
        """Return a chunk in Blosc's format, uint8; None for others, or where `read` must report."""


@runtime_checkable
class ChunksAhead(Protocol):
    """Chunks that can be asked for before they are read."""

    def ahead(self, index: tuple[int, ...]) -> None:
        """Have a chunk fetched while others are decoded; nothing is reported before `read`."""


class Peek:
    """View of a source through names and small files alone; this one shows nothing."""

    def images(self, named: bool) -> list[str] | None:
        """Names that an image may have, if one is `named` or must be; None if any will do."""
        return None

    def labels(self, image: str) -> list[str] | None:
        """Names that labels of an image may have; None if they are a file of their own."""
        return None

    def holds(self, name: str) -> bool:
        """Whether there is something of that name, although it is not one of the usual ones."""
        return False

    def fields(self, image: str | None) -> list[str]:
        """Names of the fields of view of a plate or a well; empty if it is none."""
        return []

    def channels(self, image: str | None) -> list[str]:
        """Names of an image's channels; empty if nothing names them."""
        return []


class Format(Protocol):
    """One kind of source."""

    LOCAL: bool
    """Whether its sources are paths on this machine."""

    ENDINGS: tuple[str, ...]
    """Endings of the names of its files and folders, which say no more than their format."""

    def claims(self, uri: str) -> bool:
        """Whether a source is of this format, by its address or what is there."""

    def peek(self, uri: str) -> Peek:
        """Look at a source with the standard library alone.

        Raises
        ------
        InputError
            The source is unusable; the message does not name it.
        """

    def watched(self, uri: str) -> list[str]:
        """Files whose absence or age shows that a source has changed."""

    def stamps(self, uri: str) -> Iterable[Stamp]:
        """Stamps of all files that may hold pixels, from the file system's tables alone."""

    def open_image(self, uri: str, name: str | None, choice: Choice) -> Element:
        """Open the image of a source; see `harpy_core.raster.open_raster` for the parameters."""

    def open_labels(
        self,
        uri: str,
        name: str | None,
        image: str | None,
        choice: Choice,
        elsewhere: bool,
    ) -> Element | None:
        """Open labels inside a source; None where they are a file of their own.

        `elsewhere` says that the name may be that of a file or a folder outside the source.
        """

    def open_alone(self, uri: str, choice: Choice) -> Element:
        """Open labels that are a file of their own."""

    def contents(self, uri: str, image: str | None, choice: Choice) -> Iterator[tuple[str, str]]:
        """Yield the contents of a source for people: the name of a line, and the line."""

    def owns(self, array: Any) -> bool:
        """Whether an array is one of this format."""

    def chunks(self, array: Any, strict: bool | None) -> ChunkSource:
        """Return the chunks of an array, to be decoded.

        A missing chunk is an error if `strict`, reported if None, and not looked for if False.
        """

    def facts(self, array: Any, times: bool) -> list[Any] | None:
        """Facts that identify an array, without reading its pixels; None where nothing does.

        `times` includes the times of files.
        """

    def storage(self, array: Any, count: int) -> Storage:
        """Storage of an array, with at most `count` samples."""

    def files(self, array: Any) -> list[str]:
        """Paths of the local files that hold an array; none if it is at an address."""

    def reusable(self, array: Any) -> ReusableFiles | None:
        """Return the files of an array that another one can have as they are."""


LISTED = 12
"""Number of names after which a list is cut short."""


def listed(names: Sequence[str]) -> str:
    """List names for people, cut short if there are many."""
    rest = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {rest:,} more" if rest > 0 else "")


def stamp(path: str, name: str | None = None) -> Stamp:
    """Stamp of a file, under another name if one is given."""
    found = os.stat(path)
    return name or path, found.st_size, found.st_mtime_ns


def _stat_of(entry: os.DirEntry[str]) -> os.stat_result:
    """Return the size and times of a file, or of a symbolic link that leads nowhere."""
    try:
        return entry.stat()
    except FileNotFoundError:
        return entry.stat(follow_symlinks=False)


def stamps_below(folder: str, prefix: str = "") -> Iterator[Stamp]:
    """Stamps of all files below a folder, by their names below it, in no order."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = f"{prefix}{entry.name}"
            if entry.is_dir():
                yield from stamps_below(entry.path, f"{name}/")
            else:
                found = _stat_of(entry)
                yield name, found.st_size, found.st_mtime_ns


def chosen_level(
    kind: str,
    choice: Choice,
    names: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
    where: str,
) -> int:
    """Return the number of the resolution that is meant.

    Labels that have only one have it for every level of the image; of others it is the one of the
    same number, if it fits, or else the only one that does.

    Parameters
    ----------
    kind
        ``images`` or ``labels``.
    choice
        What was asked for.
    names
        Names of the levels by the metadata, the finest first.
    shapes
        Pixels of each along z, y and x.
    where
        Name of the element in an error.

    Raises
    ------
    InputError
        There is no such level, or none or several of the labels fit.
    """
    wanted = choice.level
    number = int(wanted) if str(wanted).isdigit() else -1
    if isinstance(wanted, str) and wanted in names:
        number = names.index(wanted)
    there = 0 <= number < len(names)
    if kind == "labels" and choice.fits is not None:
        fit = [i for i, shape in enumerate(shapes) if shape == choice.fits]
        if len(names) == 1 or (there and number in fit):
            return number if there and number in fit else 0
        if len(fit) == 1:
            return fit[0]
        raise InputError(f"{where}: {_unfit(choice.fits, names, shapes, fit)}")
    if there:
        return number
    found = f"0 to {len(names) - 1}"
    if list(names) != [str(i) for i in range(len(names))]:
        found += f" ({listed(names)})"
    raise InputError(f"{where}: no level {wanted}; there are {found}")


def _unfit(
    fits: tuple[int, ...], names: Sequence[str], shapes: Sequence[tuple[int, ...]], fit: list[int]
) -> str:
    if fit:
        return (
            f"levels {listed([names[i] for i in fit])} all have the image's pixels; choose one "
            "with labels_level"
        )
    levels = [f"{name} ({sized(shape)})" for name, shape in zip(names, shapes, strict=True)]
    return (
        f"labels do not cover the same pixels as the image, {sized(fits)}, in any of their levels, "
        f"{listed(levels)}: choose the image's level accordingly, or resample the labels"
    )


def sized(shape: Sequence[int]) -> str:
    """Pixels along z, y and x for people, without z if it is one."""
    return " x ".join(f"{n:,}" for n in (shape[1:] if shape[0] == 1 else shape))
