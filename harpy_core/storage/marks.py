"""Marks on elements that we put into a user's store: whose result each one is, and its content.

An element may be replaced if it bears the mark of the same result and nobody has changed it since.
The standard library is enough to see a mark: the workflow looks while it is parsed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from harpy_core.errors import InputError
from harpy_core.storage.manifest import tree_digest

MARK = "harpy_core"
"""Attribute of an element that holds its mark."""

_ATTRIBUTES = ("zarr.json", ".zattrs")
_METADATA = (*_ATTRIBUTES, ".zgroup")


def mark(element: Path, result: str) -> dict[str, str]:
    """Make the mark of an element that is otherwise complete.

    Parameters
    ----------
    element
        Folder of the element.
    result
        Path of the result that it holds.
    """
    return {"result": os.path.abspath(result), "content": _content(element)}


def is_foreign(element: Path) -> bool:
    """Whether an element is there, and is not ours."""
    return os.path.lexists(element) and _mark_of(element) is None


def refuse_foreign(element: Path, result: str) -> None:
    """Refuse to replace an element unless it is the same result's and as we left it.

    Raises
    ------
    InputError
        It is not.
    """
    if not os.path.lexists(element):
        return
    known = _mark_of(element)
    if known is None:
        why = "is there already, and is not ours"
    elif known.get("result") != os.path.abspath(result):
        why = f"is there already, put there from {known.get('result')}"
    elif known.get("content") != _content(element):
        why = "was changed since it was put there"
    else:
        return
    raise InputError(
        f"{element}: {why}; give table.name another name, remove the element, or set "
        "table.overwrite: true"
    )


def _content(element: Path) -> str:
    """Digest of the files of an element but for its own attributes."""
    return tree_digest(element, left_out=_METADATA)


def _mark_of(element: Path) -> dict[str, Any] | None:
    for name in _ATTRIBUTES:
        try:
            found = json.loads((element / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        attributes = found.get("attributes", {}) if name == "zarr.json" else found
        known = attributes.get(MARK)
        return known if isinstance(known, dict) else None
    return None
