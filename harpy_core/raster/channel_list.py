"""Names of channels in a file of their own: one a line, or the marker list of a pipeline.

It is read while the workflow is parsed, with the standard library alone.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence

from harpy_core.errors import InputError
from harpy_core.raster.formats.names import refuse_long

COLUMNS = ("marker_name", "name")
"""Columns of names: in MCMICRO's markers.csv, and in steinbock's panel.csv."""

_KEPT = "keep"
"""Column of steinbock's panel: channels with 0 are not in its images."""

_HEADS = (*COLUMNS, "channel", "channels", "marker", "markers")
"""Heads that a file of one column may have."""


def read_names(path: str | os.PathLike[str]) -> list[str]:
    """Read the names of an image's channels, in order.

    Parameters
    ----------
    path
        Text of one name a line, with a head or without; or a table with a column ``marker_name``
        (MCMICRO) or ``name`` (steinbock, whose channels with ``keep`` 0 are left out), separated by
        commas, semicolons or tabs.

    Raises
    ------
    InputError
        The file is not there, or has several columns and none of these; the message names it.
    """
    try:
        refuse_long(str(path), os.path.getsize(path))
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: names of channels cannot be read from it ({error}); give a text with a name "
            "a line, or a list of names"
        ) from error
    lines = [line for line in lines if line.strip()]
    separator = next((s for s in "\t;," if lines and s in lines[0]), ",")
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator)]
    names = _names(rows, path) if rows else []
    if not names or not all(names):
        raise InputError(f"{path}: a channel has no name; give each a name of its own")
    return names


def _names(rows: Sequence[Sequence[str]], path: str | os.PathLike[str]) -> list[str]:
    head, *rest = rows
    heads = [cell.lower() for cell in head]
    if len(head) == 1:
        return [row[0] for row in (rest if heads[0] in _HEADS else rows)]
    column = next((heads.index(name) for name in COLUMNS if name in heads), None)
    if column is None or any(len(row) != len(head) for row in rest):
        raise InputError(
            f"{path}: its columns are {', '.join(head)}: give one with a column "
            f"{' or '.join(COLUMNS)}, or a text with a name a line"
        )
    kept = heads.index(_KEPT) if _KEPT in heads else None
    return [row[column] for row in rest if kept is None or row[kept].lower() not in _LEFT_OUT]


_LEFT_OUT = ("0", "0.0", "false")
