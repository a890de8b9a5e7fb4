"""Paths of a config: where they lead, from the working directory or from the config's own folder.

It is imported while the workflow is parsed, so nothing heavy is imported here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeVar

from harpy_core.config.crops import Extract
from harpy_core.config.measures import Layer
from harpy_core.config.models import DATASETS, Benchmark, Config, Origin, Source
from harpy_core.config.section import Section

S = TypeVar("S", bound=Section)

PATHS: dict[type[Section], tuple[str, ...]] = {
    Source: ("uri", "labels", "channels"),
    Layer: ("labels",),
    Origin: ("archive", "store"),
    Extract: ("index",),
    Benchmark: ("peer_python",),
}
"""Keys that hold the path of something that should be there already."""

Moved = dict[tuple[str, ...], str]
"""Keys whose paths lead from the config's folder, with those paths."""


def placed(config: Config, folder: str) -> tuple[Config, Moved]:
    """Return a config with the paths that lead only from its folder, and these by their keys.

    Parameters
    ----------
    config
        Checked config.
    folder
        Folder of its file.
    """
    moved: Moved = {}
    return _placed(config, folder, (), moved), moved


def looked_in(path: str, folder: str) -> str:
    """Return where a relative path was looked for, for an error; empty for an absolute one."""
    if os.path.isabs(path):
        return ""
    places = [os.getcwd(), os.path.abspath(folder)]
    return " in " + ", nor in ".join(dict.fromkeys(places))


def _placed(section: S, folder: str, path: tuple[str, ...], moved: Moved) -> S:
    changed: dict[str, Any] = {}
    for name in type(section).model_fields:
        value, where = getattr(section, name), (*path, name)
        if isinstance(value, Section):
            changed[name] = _placed(value, folder, where, moved)
        elif isinstance(value, Mapping) and all(isinstance(v, Section) for v in value.values()):
            changed[name] = {
                key: _placed(inner, folder, (*where, str(key)), moved)
                for key, inner in value.items()
            }
        elif name in PATHS.get(type(section), ()) and isinstance(value, str):
            other = os.path.join(folder, value)
            if _leads_elsewhere(value, other, section):
                changed[name] = moved[where] = other
    return section.model_copy(update=changed)


def _leads_elsewhere(path: str, other: str, section: Section) -> bool:
    """Whether a path is nothing where we are, but is something in another folder."""
    if "://" in path or os.path.isabs(path) or path in DATASETS or os.path.exists(path):
        return False
    if isinstance(section, Layer) and not {"/", "."} & set(path):
        return False
    if isinstance(section, Source) and path == section.labels:
        # It may be the name of an element, or lie beside the image.
        beside = os.path.join(os.path.dirname(section.uri), path)
        if not ({"/", "."} & set(path)) or os.path.exists(beside):
            return False
        inside = os.path.join(section.uri, path)
        return os.path.exists(other) and not os.path.exists(inside)
    return os.path.exists(other)
