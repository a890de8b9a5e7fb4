"""Fingerprints that identify inputs, without reading the pixels of a file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from harpy_core.raster.formats import owner_of
from harpy_core.raster.grown import LabelView
from harpy_core.raster.reading import is_dask
from harpy_core.raster.views import AxesView, ChannelView
from harpy_core.storage.manifest import digest_of

_NESTED = 20
"""Levels at which an array may be nested in a graph's values and their wrappers."""


class _UnknownError(Exception):
    """An array's content cannot be identified."""


def fingerprint(*arrays: Any, times: bool = True) -> str | None:
    """Digest that identifies an input; None where nothing does.

    It covers the names, sizes and times of a local array's files. At an address it covers what the
    server says of the array's metadata (entity tag, time of change, size), which a chunk written in
    place leaves as it is. A Dask array has its name, and the arrays behind its graph, if every task
    that begins it reads some; what such a task reads besides is not known.

    Parameters
    ----------
    arrays
        Arrays that `open_raster` opened, or NumPy or Dask arrays.
    times
        Include the files' times of change; otherwise copies of a store have one fingerprint.
    """
    try:
        return digest_of([_facts(array, times) for array in arrays])
    except _UnknownError:
        return None


def _facts(array: Any, times: bool) -> list[Any]:
    if is_dask(array):
        return [array.name, list(array.shape), *_behind(array, times)]
    if isinstance(array, ChannelView):
        return [list(array.indices), *_facts(array.array, times)]
    if isinstance(array, LabelView):
        return [*array.facts(), *(fact for one in array.arrays for fact in _facts(one, times))]
    if isinstance(array, AxesView):
        return [*_of_view(array), *_facts(array.array, times)]
    owner = owner_of(array)
    if owner is not None:
        found = owner.facts(array, times)
        if found is None:
            raise _UnknownError
        return found
    values = np.ascontiguousarray(array)
    if values.dtype.hasobject:
        raise _UnknownError
    content = hashlib.sha256(values.reshape(-1).view(np.uint8).data)
    return [list(values.shape), str(values.dtype), content.hexdigest()]


def _of_view(view: AxesView) -> list[Any]:
    """Return the order of axes, and what is left out, where either is not the usual one."""
    kept = [i for i in view.order if i is not None]
    usual = kept == sorted(kept) and (None not in view.order or len(kept) == 2)
    return [] if usual and not any(view.at) else [list(view.order), list(view.at)]


# Dask ---------------------------------------------------------------------------------------------


def _behind(array: Any, times: bool) -> list[Any]:
    """Facts about the arrays that a graph begins with, each once, in the order of the graph."""
    graph = dict(array.__dask_graph__())
    found: dict[int, Any] = {}
    for value in graph.values():
        arrays = list(_arrays_in(value))
        if not arrays and not _refers(value, graph):
            raise _UnknownError
        found.update({id(each): each for each in arrays})
    return [_facts(each, times) for each in found.values()]


def _refers(value: Any, graph: Mapping[Any, Any]) -> bool:
    """Whether a value of a graph depends on others."""
    known = getattr(value, "dependencies", None)
    if known is not None:
        return bool(known)
    parts = value if isinstance(value, (list, tuple)) else ()
    return any(_is_key(part, graph) or _refers(part, graph) for part in parts)


def _is_key(part: Any, graph: Mapping[Any, Any]) -> bool:
    try:
        return part in graph
    except TypeError:
        return False


def _arrays_in(value: Any, depth: int = 0) -> Iterator[Any]:
    """Yield the arrays of a graph's value: itself, wrapped, or among its arguments."""
    if depth > _NESTED or value is None or isinstance(value, (str, bytes, type)):
        return
    if isinstance(value, np.ndarray) or owner_of(value) is not None:
        yield value
        return
    if isinstance(value, (list, tuple, set)):
        inside = [*value]
    elif isinstance(value, dict):
        inside = [*value.values()]
    else:
        # A task's arguments, a node's value, or xarray's wrappers of an array.
        names = ("args", "kwargs", "value", "array", "_array")
        inside = [getattr(value, name, None) for name in names]
    for part in inside:
        yield from _arrays_in(part, depth + 1)
