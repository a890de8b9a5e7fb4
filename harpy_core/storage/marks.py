"""Marks on elements that we put into a user's store: whose result each one is, and its content.

An element may be replaced if it bears the mark of the same result and nobody has changed it since.
The standard library is enough to see a mark: the workflow looks while it is parsed.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from harpy_core.errors import InputError

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
    return {"result": os.path.abspath(result), "content": content_digest(element)}


def content_digest(element: Path) -> str:
    """SHA-256 of the files below an element's folder but for its own attributes."""
    total = hashlib.sha256()
    for file in sorted(path for path in element.rglob("*") if path.is_file()):
        name = file.relative_to(element).as_posix()
        if name not in _METADATA:
            total.update(f"{name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def trouble(element: Path, result: str) -> str | None:
    """Return why an element must not be replaced by a result; None if it may, or is not there.

    Whether it was changed since it was put there is not looked at: see `refuse_foreign`.
    """
    if not os.path.lexists(element):
        return None
    known = _mark_of(element)
    if known is None:
        return "is there already, and is not ours"
    if known.get("result") != os.path.abspath(result):
        return f"is there already, put there from {known.get('result')}"
    return None


def refuse_foreign(element: Path, result: str) -> None:
    """Refuse to replace an element unless it is the same result's and as we left it.

    Raises
    ------
    InputError
        It is not.
    """
    why = trouble(element, result)
    if why is None and os.path.lexists(element):
        known = _mark_of(element) or {}
        changed = content_digest(element) != known.get("content")
        why = "was changed since it was put there" if changed else None
    if why is not None:
        raise InputError(
            f"{element}: {why}; give table.name another name, remove the element, or set "
            "table.overwrite: true"
        )


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
