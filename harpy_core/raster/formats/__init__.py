"""Where images and labels come from: a file for each kind of source, and its line here."""

from __future__ import annotations

import os
from typing import Any

from harpy_core.raster.formats import planes, remote, tiff, zarr_store
from harpy_core.raster.formats.format import Format

FORMATS: tuple[Format, ...] = (
    remote,
    tiff,
    planes,
    zarr_store,
)
"""The first that claims a source opens it; the last claims what no other does."""


def format_of(uri: str) -> Format:
    """The format of a source, by its address or what lies there."""
    return next(found for found in FORMATS if found.claims(uri))


def owner_of(array: Any) -> Format | None:
    """The format that an array was opened by; None for arrays in memory."""
    return next((found for found in FORMATS if found.owns(array)), None)


def is_apart(labels: str) -> bool:
    """Whether the name of labels says that they are a file of their own, or at an address."""
    if labels.startswith((".", "/")):
        return True
    return not os.path.isdir(labels) and format_of(labels) is not FORMATS[-1]


def beside(labels: str, uri: str) -> str:
    """Place of labels that are a file of their own: as it is given, or beside the image."""
    there = format_of(labels)
    if not there.LOCAL:
        return labels
    if os.path.exists(labels) or os.path.isabs(labels) or not format_of(uri).LOCAL:
        return os.path.abspath(labels)
    return os.path.abspath(os.path.join(os.path.dirname(uri), labels))
