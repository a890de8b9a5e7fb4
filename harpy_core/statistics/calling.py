"""Calls of a user's function, one for each whole instance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from harpy_core.errors import InputError


def returned(
    function: Callable[..., Any],
    name: str,
    outputs: int,
    pixels: np.ndarray,
    rows: Sequence[int],
    begin: np.ndarray,
    coordinates: Callable[[int], np.ndarray],
    ids: np.ndarray,
    ignore_nan: bool,
) -> np.ndarray:
    """Numbers that a function returns for each instance, (instances, outputs) float64.

    Parameters
    ----------
    function
        Function of the pixels, (c, n), and their coordinates, (3, n) int64, of one instance.
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
        Function of the number of an instance that returns its pixels' coordinates.
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
    for row, label in enumerate(ids.tolist()):
        # A copy: a function that writes would change the pixels for the statistics after it.
        inside = pixels[rows, begin[row] : begin[row + 1]]
        where = coordinates(row)
        if ignore_nan and inside.dtype.kind == "f":
            kept = ~np.isnan(inside).any(axis=0)
            inside, where = inside[:, kept], where[:, kept]
            if not kept.any():
                continue
        found[row] = _numbers(function, name, outputs, inside, where, label)
    return found


def _numbers(
    function: Callable[..., Any],
    name: str,
    outputs: int,
    pixels: np.ndarray,
    where: np.ndarray,
    label: int,
) -> np.ndarray:
    try:
        numbers = np.asarray(function(pixels, where), dtype=np.float64).reshape(-1)
    except Exception as error:
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
