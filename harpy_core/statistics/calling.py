"""Calls of a user's function, for each whole instance or for batches of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from harpy_core.errors import InputError

BATCH_PIXELS = 2**16
"""Pixels of a batch, at most, unless an instance alone has more."""

_ALONE = threading.Lock()
"""Held by the one call of this process: libraries that a function uses may not bear two."""


def returned(
    function: Callable[..., Any],
    name: str,
    outputs: int,
    pixels: np.ndarray,
    rows: Sequence[int],
    begin: np.ndarray,
    coordinates: Callable[[int, int], np.ndarray],
    ids: np.ndarray,
    ignore_nan: bool,
    batched: bool,
) -> np.ndarray:
    """Numbers that a function returns for each instance, (instances, outputs) float64.

    Parameters
    ----------
    function
        Function of the pixels, (c, n), and their coordinates, (3, n) int64, of one instance or, if
        it is batched, of several, with the index of each one's first pixel and the end.
    name
        Its name, for errors.
    outputs
        Number of numbers that it returns.
    pixels : (channels, n)
        Pixels of all instances, those of an instance side by side.
    rows
        Index there of each channel that the function is given.
    begin : (instances + 1,) int64
        Index of each instance's first pixel, and the end.
    coordinates
        Function of the numbers of an instance, and of the one after the last of several, that
        returns their pixels' coordinates.
    ids : (instances,) uint64
        Labels of the instances, for errors.
    ignore_nan
        Leave out pixels that are NaN in any channel; an instance without others gets NaN.

    Raises
    ------
    InputError
        The function fails, or returns something else.
    """
    found = np.full((len(ids), outputs), np.nan)
    for first, last in _batches(begin) if batched else ():
        inside = pixels[rows, begin[first] : begin[last]]
        where, starts = coordinates(first, last), begin[first : last + 1] - begin[first]
        some = np.ones(last - first, bool)
        if ignore_nan and inside.dtype.kind == "f":
            kept = ~np.isnan(inside).any(axis=0)
            inside, where = inside[:, kept], where[:, kept]
            starts = np.concatenate([[0], np.cumsum(kept)])[starts]
            some = np.diff(starts) > 0
            starts = np.append(starts[:-1][some], starts[-1])
        if some.any():
            numbers = _of_batch(function, name, outputs, inside, where, starts)
            found[first:last][some] = numbers
    if batched:
        return found
    for row, label in enumerate(ids.tolist()):
        # A copy: a function that writes would change the pixels for the statistics after it.
        inside = pixels[rows, begin[row] : begin[row + 1]]
        where = coordinates(row, row + 1)
        if ignore_nan and inside.dtype.kind == "f":
            kept = ~np.isnan(inside).any(axis=0)
            inside, where = inside[:, kept], where[:, kept]
            if not kept.any():
                continue
        found[row] = _numbers(function, name, outputs, inside, where, label)
    return found


def _batches(begin: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield the first instance of each batch, and the one after its last."""
    first = 0
    while first < len(begin) - 1:
        last = int(np.searchsorted(begin, begin[first] + BATCH_PIXELS, side="right")) - 1
        last = max(last, first + 1)
        yield first, last
        first = last


def _real(numbers: Any) -> np.ndarray:
    """What a function returned, as float64."""
    found = np.asarray(numbers)
    if found.dtype.kind == "c":
        raise TypeError("it returned complex numbers")
    return np.asarray(found, np.float64)


def _of_batch(
    function: Callable[..., Any],
    name: str,
    outputs: int,
    pixels: np.ndarray,
    where: np.ndarray,
    starts: np.ndarray,
) -> np.ndarray:
    number = len(starts) - 1
    try:
        with _ALONE:
            numbers = _real(function(pixels, where, starts))
    except (Exception, SystemExit) as error:
        told = " ".join(str(error).split())
        raise InputError(
            f"stats: {name} failed on a batch of {number} instances with {pixels.shape[1]} pixels: "
            f"{type(error).__name__}: {told}"
        ) from error
    wanted = (number, outputs)
    if numbers.shape != wanted and (outputs > 1 or numbers.shape != (number,)):
        raise InputError(
            f"stats: {name} returned numbers of shape {numbers.shape} for {number} instances and "
            f"declares {outputs}: return {wanted}"
        )
    return numbers.reshape(wanted)


def _numbers(
    function: Callable[..., Any],
    name: str,
    outputs: int,
    pixels: np.ndarray,
    where: np.ndarray,
    label: int,
) -> np.ndarray:
    try:
        with _ALONE:
            numbers = _real(function(pixels, where)).reshape(-1)
    except (Exception, SystemExit) as error:
        told = " ".join(str(error).split())
        raise InputError(
            f"stats: {name} failed on instance {label} with {pixels.shape[1]} pixels: "
            f"{type(error).__name__}: {told}"
        ) from error
    if len(numbers) != outputs:
        raise InputError(
            f"stats: {name} returned {len(numbers)} numbers for instance {label} and declares "
            f"{outputs}: name each in outputs"
        )
    return numbers
