"""What a format answers for: its addresses, its elements, its arrays.

A format is a module with these functions and a line in `harpy_core.raster.formats`. The workflow
imports all of them while it is parsed, so what is slow to import is imported where it is used.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

    from harpy_core.raster.placement import Placement

Options = Mapping[str, Any] | None
"""For an address: what fsspec takes for its protocol."""

Stamp = tuple[str, int, int]
"""Name, size and time of change (in nanoseconds) of a file."""


@dataclass(frozen=True, slots=True)
class Element:
    """An image or labels, with what its metadata says of it.

    Attributes
    ----------
    name
        Where it was found inside its source; its path, where it is a file of its own.
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


@dataclass(frozen=True, slots=True)
class Storage:
    """How an array is stored, and a sample of what it is stored in.

    Attributes
    ----------
    unit
        Pixels of a file or segment along each axis: of a shard, where there are some.
    codec
        Filters and compressors, with their settings.
    sizes
        Stored bytes of some units; None for one that is not there.
    """

    unit: tuple[int, ...]
    codec: str
    sizes: list[int | None]


class ChunkSource(Protocol):
    """The chunks of an array, decoded one by one; can be sent to a worker.

    Attributes
    ----------
    name
        What an error calls the array.
    """

    name: str

    def read(self, index: tuple[int, ...], out: np.ndarray) -> bool:
        """Decode a chunk into `out`, of a chunk's full shape and in native byte order.

        Returns
        -------
        Whether it is there; where it is not, and need not be, `out` holds the fill value.
        """


class Peek:
    """What names and small files alone say of a source; this one says nothing."""

    def images(self, named: bool) -> list[str] | None:
        """Names that an image may have, where one is `named` or must be; None: it is not asked."""
        return None

    def labels(self, image: str) -> list[str] | None:
        """Names that labels of an image may have; None: they are a file of their own."""
        return None

    def holds(self, name: str) -> bool:
        """Whether there is something by that name, though it is none of the usual ones."""
        return False

    def channels(self, image: str | None) -> list[str]:
        """Names of an image's channels; empty where nothing names them."""
        return []


class Format(Protocol):
    """One kind of source."""

    LOCAL: bool
    """Whether its sources are paths on this machine."""

    def claims(self, uri: str) -> bool:
        """Whether a source is of this format, by its address, or what lies there."""

    def peek(self, uri: str) -> Peek:
        """Look at a source with the standard library alone.

        Raises
        ------
        InputError
            What is wrong with it, without its name.
        """

    def watched(self, uri: str) -> list[str]:
        """Files whose absence or age tells that a source is another one."""

    def stamps(self, uri: str) -> Iterable[Stamp]:
        """Every file of a source that may hold pixels, from the file system's tables alone."""

    def open_image(self, uri: str, name: str | None, level: int, options: Options) -> Element:
        """Open the image of a source; see `harpy_core.raster.open_raster` for the parameters."""

    def open_labels(
        self,
        uri: str,
        name: str | None,
        image: str | None,
        level: int,
        options: Options,
        elsewhere: bool,
    ) -> Element | None:
        """Open labels inside a source; None where they are a file of their own.

        `elsewhere` says that the name may be that of a file or a folder outside the source.
        """

    def open_alone(self, uri: str, level: int, options: Options) -> Element:
        """Open labels that are a file of their own."""

    def contents(self, uri: str, image: str | None, options: Options) -> Iterator[tuple[str, str]]:
        """What is in a source, for people: the name of a line, and the line."""

    def owns(self, array: Any) -> bool:
        """Whether an array is one of this format."""

    def chunks(self, array: Any, strict: bool | None) -> ChunkSource:
        """How the chunks of an array are decoded.

        A chunk that is missing is an error where `strict`, and told without; False: not looked for.
        """

    def facts(self, array: Any, times: bool) -> list[Any] | None:
        """What tells an array from another, without reading its pixels; None where nothing does.

        `times` takes the times of files in.
        """

    def storage(self, array: Any, count: int) -> Storage:
        """How an array is stored, with at most so many samples."""


LISTED = 12
"""Names after which a list is cut short."""


def listed(names: Sequence[str]) -> str:
    """Names for people, cut short where they are many."""
    rest = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {rest:,} more" if rest > 0 else "")


def stamp(path: str, name: str | None = None) -> Stamp:
    """Stamp of a file; under another name where one is given."""
    found = os.stat(path)
    return name or path, found.st_size, found.st_mtime_ns


def stamps_below(folder: str, prefix: str = "") -> Iterator[Stamp]:
    """Stamps of all files below a folder, by their names below it, in no order."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = f"{prefix}{entry.name}"
            if entry.is_dir():
                yield from stamps_below(entry.path, f"{name}/")
            else:
                found = entry.stat()
                yield name, found.st_size, found.st_mtime_ns
