"""Configs of one case, the lines that their mistakes get, and what a source may point to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harpy_core.errors import InputError
from harpy_core.planning import preflight

FILE = "config/config.yaml"
TIFF = b"II*\0" + bytes(16)


def with_case(**sections: Any) -> dict[str, Any]:
    """A config of one case, ``liver``, with its source."""
    return {"cases": {"liver": {"source": {"uri": "ihc"}, **sections}}}


def with_source(**keys: Any) -> dict[str, Any]:
    """A config of one case, ``liver``, with nothing but its source."""
    return {"cases": {"liver": {"source": keys}}}


def all_told(mapping: dict[str, Any]) -> list[str]:
    """The lines that a bad config gets."""
    with pytest.raises(InputError) as caught:
        preflight.checked(mapping, FILE)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{FILE}: ") for line in lines)
    return [line.removeprefix(f"{FILE}: ") for line in lines]


def told(mapping: dict[str, Any]) -> str:
    """The line that a config with one mistake gets."""
    (line,) = all_told(mapping)
    return line


def store(path: Path, images: list[str], labels: list[str]) -> Path:
    """The metadata of a SpatialData store, and nothing else."""
    ngff = {"omero": {"channels": [{"label": "DAPI"}, {"label": "CD3"}]}}
    for group in ("", *(f"images/{n}" for n in images), *(f"labels/{n}" for n in labels)):
        folder = path / group
        folder.mkdir(parents=True)
        (folder / "zarr.json").write_text(json.dumps({"attributes": {"ome": ngff}}))
    return path
