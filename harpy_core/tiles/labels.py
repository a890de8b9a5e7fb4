"""Labels that a user names, kept exactly as given."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from harpy_core.errors import InputError

_LARGEST = 2**64 - 1


_OF_MASKS = (1, 255, 2**16 - 1)
"""Values that programs give the foreground of a binary mask."""


def mask_note(ids: Iterable[int]) -> str | None:
    """Return what to say of labels that look like a binary mask; None if they do not.

    Parameters
    ----------
    ids
        The labels that are there, without background.
    """
    there = [int(label) for label in ids]
    if len(there) != 1 or there[0] not in _OF_MASKS:
        return None
    return (
        f"the only label is {there[0]}, as in a binary mask: label_connected: true (in Python: "
        "harpy_core.label_connected(labels)) makes an instance of each connected piece"
    )


def checked_labels(given: int | Sequence[int] | np.ndarray, name: str) -> np.ndarray:
    """Labels as (n,) uint64, in the order given.

    Parameters
    ----------
    given
        One label, or several.
    name
        Name for them in errors.

    Raises
    ------
    InputError
        A label is not a positive 64-bit integer.
    """
    values = np.atleast_1d(np.asarray(given))
    if values.size == 0:
        return np.empty(0, np.uint64)
    if values.dtype.kind not in "iu" and not isinstance(given, np.ndarray):
        # NumPy makes floats of a list with integers below and above 2^63.
        values = np.atleast_1d(np.asarray(given, dtype=object))
    # Checking the smallest is enough where the type already says that they are integers.
    doubtful = [values.min()] if values.dtype.kind in "iu" else values.ravel().tolist()
    _refuse(doubtful, name)
    return values.astype(np.uint64).ravel()


def _refuse(values: Iterable[Any], name: str) -> None:
    for value in values:
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        if not whole or not 1 <= value <= _LARGEST:
            raise InputError(
                f"{name}: labels are positive integers of at most 64 bits, not {value}; "
                "leave out 0, the background, and anything else"
            )


def read_labels(path: str | os.PathLike[str]) -> np.ndarray:
    """Labels of a text file, one per line, as (n,) uint64.

    Raises
    ------
    InputError
        There is no such file, or a line is not a label.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give a text of labels") from error
    wrong = [line for line in lines if not line.isdecimal()]
    if wrong or not lines:
        raise InputError(
            f"{path}: {wrong[0] if wrong else ''!r} is no label; write one number a line"
        )
    return checked_labels([int(line) for line in lines], str(path))
