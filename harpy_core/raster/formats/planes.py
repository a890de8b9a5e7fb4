"""A folder of TIFFs, one per channel, as CODEX, IMC and MCMICRO export them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from harpy_core.errors import InputError
from harpy_core.raster.formats import headers, tiff
from harpy_core.raster.formats.format import Choice, Element, Peek, Stamp, Storage, stamp

if TYPE_CHECKING:
    import numpy as np

    from harpy_core.raster.chunks import Slices

LOCAL = True
ENDINGS: tuple[str, ...] = ()

_OPEN = 256
"""Number of files that a process keeps open."""


def claims(uri: str) -> bool:
    """Whether a folder holds TIFFs and nothing of a Zarr store."""
    if not os.path.isdir(uri):
        return False
    names = os.listdir(uri)
    return any(map(_is_plane, names)) and not any(
        name in ("zarr.json", ".zgroup", ".zarray") for name in names
    )


def _is_plane(name: str) -> bool:
    return name.lower().endswith(tiff.PLAIN) and not name.startswith(".")


def paths_in(uri: str) -> list[str]:
    """Paths of the channels, sorted with numbers in their names as numbers."""
    names = sorted(filter(_is_plane, os.listdir(uri)), key=_natural)
    return [os.path.join(uri, name) for name in names]


def _natural(name: str) -> list[tuple[int, str]]:
    parts = re.findall(r"\d+|\D+", name.lower())
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def channel_names(paths: list[str]) -> list[str]:
    """Names of files without the whole words that all share at the beginning and end.

    One file keeps its name.
    """
    names = [os.path.basename(path) for path in paths]
    stems = [re.sub(r"(\.ome)?\.[^.]+$", "", name, flags=re.IGNORECASE) for name in names]
    if len(stems) == 1:
        return stems
    words = [re.split(r"([_\-. ]+)", stem) for stem in stems]
    shortest = min(map(len, words)) - 1
    before = _shared(words, shortest)
    after = _shared([each[::-1] for each in words], shortest - before)
    return ["".join(each[before : len(each) - after]).strip("_-. ") for each in words]


def _shared(words: list[list[str]], most: int) -> int:
    """Number of words that all begin with."""
    alike = takewhile(lambda each: len(set(each)) == 1, zip(*words, strict=False))
    return min(sum(1 for _ in alike), max(most, 0))


class _Planes(Peek):
    """View of a folder through the names and headers of its files."""

    def __init__(self, uri: str) -> None:
        self._files = paths_in(uri)

    def channels(self, image: str | None) -> list[str]:
        return channel_names(self._files)


def peek(uri: str) -> Peek:
    """Refuse channels that differ by their headers, or whose names are not unique."""
    found = paths_in(uri)
    first: headers.Header | None = None
    for path in found:
        try:
            here = headers.header(path)
        except InputError as error:
            raise InputError(f"{os.path.basename(path)} {error}") from error
        first = first or here
        if here != first:
            raise InputError(
                f"{os.path.basename(path)} has {_told(here)}, {os.path.basename(found[0])} has "
                f"{_told(first)}: put the channels of one image, and nothing else, in the folder"
            )
    names = channel_names(found)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"two files of channel {twice!r}: rename or remove one of them")
    return _Planes(uri)


def _told(header: headers.Header) -> str:
    return f"{header.height} x {header.width} pixels of {header.bits} bits (kind {header.kind})"


def watched(uri: str) -> list[str]:
    """Return the files."""
    return paths_in(uri)


def stamps(uri: str) -> list[Stamp]:
    """Return the files."""
    return [stamp(path) for path in paths_in(uri)]


def open_image(uri: str, name: str | None, choice: Choice) -> Element:
    """Open all files as one image, in the order of their names."""
    paths = tuple(paths_in(uri))
    if name is not None:
        raise InputError(
            f"{uri}: image {name!r}: its files are the channels of one image; leave it out"
        )
    array = Planes(paths, choice)
    return Element("", array, channel_names([*paths]), None, array.levels)


def open_labels(
    uri: str, name: str | None, image: str | None, choice: Choice, elsewhere: bool
) -> Element | None:
    """Return None: labels are a file of their own."""
    if name is None:
        raise InputError(
            f"{uri}: a folder of channels holds no labels; give labels = the path of a label TIFF, "
            "in another folder"
        )
    if os.path.dirname(os.path.abspath(name)) == os.path.abspath(uri):
        raise InputError(f"{name}: labels lie among the channels; move them to another folder")
    return None


def open_alone(uri: str, choice: Choice) -> Element:
    """Refuse a folder: labels are one file."""
    raise InputError(f"{uri}: a folder of TIFFs; give the path of one label TIFF")


def contents(uri: str, image: str | None, choice: Choice) -> Iterator[tuple[str, str]]:
    """Yield the number of files, and their size."""
    found = paths_in(uri)
    size = sum(os.path.getsize(path) for path in found)
    yield "folder", f"{len(found)} TIFFs, one a channel, {size:,} bytes"


class Planes:
    """TIFFs of one shape as the channels of one image, each opened when it is read.

    Parameters
    ----------
    paths
        Paths of the files, in the order of the channels.
    choice
        Level, and names of the axes.

    Raises
    ------
    InputError
        Files are not alike, or hold more than one channel.
    """

    def __init__(self, paths: tuple[str, ...], choice: Choice) -> None:
        self.paths, self._choice = paths, choice
        first = self.plane(0)
        for number, path in enumerate(paths):
            plane = self.plane(number)
            if (plane.shape, plane.dtype) != (first.shape, first.dtype):
                raise InputError(
                    f"{path}: shape {plane.shape}, {plane.dtype}; {paths[0]} has {first.shape}, "
                    f"{first.dtype}: put the channels of one image, and nothing else, in the folder"
                )
        self.levels = [(len(paths), *shape) for shape in self._element(0).levels]
        self.shape = (len(paths), *first.shape)
        self.dtype = first.dtype
        self.ndim = len(self.shape)
        self.chunks = (1, *first.chunks)

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self.paths, self._choice)

    def __getitem__(self, key: Any) -> np.ndarray:
        import numpy as np

        from harpy_core.raster.views import whole_key

        channels, *rest = whole_key(key, self.ndim)
        chosen = np.arange(len(self.paths))[channels]
        planes = [self.plane(c)[tuple(rest)] for c in np.atleast_1d(chosen).tolist()]
        return planes[0] if chosen.ndim == 0 else np.stack(planes)

    def plane(self, channel: int) -> Any:
        """Return the pixels of a channel, (y, x) or (z, y, x)."""
        return self._element(channel).array

    def _element(self, channel: int) -> Element:
        path = self.paths[channel]
        return _plane(path, self._choice.level, self._choice.axes, self._choice.t, stamp(path))


@lru_cache(maxsize=_OPEN)
def _plane(path: str, level: int | str, axes: str | None, t: int | None, file: Stamp) -> Element:
    """Open a channel, once in each process until its file changes."""
    from harpy_core.raster.tiff_array import open_tiff

    return open_tiff(path, None, "channels", Choice(level, axes, t))


def owns(array: Any) -> bool:
    """Whether an array is made of the files of a folder."""
    return isinstance(array, Planes)


def chunks(array: Planes, strict: bool | None) -> Slices:
    """Return the tiles or strips of the files."""
    from harpy_core.raster.chunks import Slices

    return Slices(array, os.path.dirname(array.paths[0]))


def facts(array: Planes, times: bool) -> list[Any]:
    """Names, sizes and times of the files."""
    from harpy_core.raster.views import stored_in

    planes = (stored_in(array.plane(c)) for c in range(len(array.paths)))
    return [tiff.facts(plane, times) for plane in planes]


def storage(array: Planes, count: int) -> Storage:
    """Compression of the first file, and the sizes of some of its segments."""
    from harpy_core.raster.views import stored_in

    found = tiff.storage(stored_in(array.plane(0)), count)
    return Storage((1, *found.unit), found.codec, found.sizes)


def files(array: Planes) -> list[str]:
    """Return the files."""
    return [*array.paths]


def reusable(array: Any) -> None:
    """Return None: no other array can have a TIFF's segments."""
