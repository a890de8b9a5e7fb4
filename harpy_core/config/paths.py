"""Paths of a config: where they lead, from the working directory or from the config's own folder.

It is imported while the workflow is parsed, so nothing heavy is imported here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeVar

from harpy_core.config.crops import Extract
from harpy_core.config.measures import Embed, Layer
from harpy_core.config.models import DATASETS, Benchmark, Config, Origin, Source
from harpy_core.config.section import Section

S = TypeVar("S", bound=Section)

PATHS: dict[type[Section], tuple[str, ...]] = {
    Source: ("uri", "labels", "channels"),
    Layer: ("labels",),
    Origin: ("archive", "store"),
    Extract: ("index",),
    Embed: ("model",),
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
    return _placed(config, folder, (), moved, None), moved


def looked_in(path: str, folder: str) -> str:
    """Return where a relative path was looked for, for an error; empty for an absolute one."""
    if os.path.isabs(path):
        return ""
    places = [os.getcwd(), os.path.abspath(folder)]
    return " in " + ", nor in ".join(dict.fromkeys(places))


def _placed(
    section: S, folder: str, path: tuple[str, ...], moved: Moved, source: Source | None
) -> S:
    """Place the paths of a section, of which `source` is the image's, where it belongs to one."""
    changed: dict[str, Any] = {}
    source = section if isinstance(section, Source) else getattr(section, "source", source)
    for name in type(section).model_fields:
        value, where = getattr(section, name), (*path, name)
        if isinstance(value, Section):
            changed[name] = _placed(value, folder, where, moved, source)
        elif isinstance(value, Mapping) and all(isinstance(v, Section) for v in value.values()):
            changed[name] = {
                key: _placed(inner, folder, (*where, str(key)), moved, source)
                for key, inner in value.items()
            }
        elif name in PATHS.get(type(section), ()) and isinstance(value, str):
            other = os.path.join(folder, value)
            if _leads_elsewhere(value, other, name, source):
                changed[name] = moved[where] = other
    return section.model_copy(update=changed)


def _leads_elsewhere(path: str, other: str, key: str, image: Source | None) -> bool:
    """Whether the path of a key of an image's is nothing where we are, but something elsewhere."""
    if "://" in path or os.path.isabs(path) or path in DATASETS or os.path.exists(path):
        return False
    if key == "labels":
        # It may be the name of an element, or lie beside the image.
        if not {"/", "."} & set(path):
            return False
        places = [os.path.dirname(image.uri), image.uri] if image else []
        if any(os.path.exists(os.path.join(place, path)) for place in places):
            return False
    return os.path.exists(other)
