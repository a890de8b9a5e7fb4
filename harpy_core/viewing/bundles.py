"""Vitessce's own script, as npm packs it: part of neither this package nor its results."""

from __future__ import annotations

import os
import re
import tarfile
from pathlib import Path

from harpy_core.errors import InputError

PACKED = "npm pack vitessce@4 react@18 react-dom@18"
"""Command that puts the packages into the folder in which it is run; it alone needs a network."""

_WANTED = {
    "vitessce": (4, r"package/dist/([\w.-]+\.js)", "index.min.js"),
    "react": (18, r"package/umd/(react\.production\.min\.js)", "react.production.min.js"),
    "react-dom": (
        18,
        r"package/umd/(react-dom\.production\.min\.js)",
        "react-dom.production.min.js",
    ),
}
"""Major version of each package, its files that a page loads, and the one that must be there."""


def read_bundle(folder: str | os.PathLike[str]) -> dict[str, bytes]:
    """Read the scripts of a page with Vitessce.

    Parameters
    ----------
    folder
        Folder with the three files that `PACKED` leaves in it.

    Returns
    -------
    Content of each script by its path: ``vitessce/index.min.js``, and those that it loads; those of
    React.

    Raises
    ------
    InputError
        A package is missing, there are two of one, or it is damaged.
    """
    found = {}
    for name, (version, wanted, needed) in _WANTED.items():
        packed = _package(Path(folder), name, version)
        try:
            with tarfile.open(packed) as archive:
                for member in archive:
                    script = re.fullmatch(wanted, member.name)
                    file = archive.extractfile(member) if script else None
                    if script and file:
                        found[f"{name}/{script[1]}"] = file.read()
        except (OSError, EOFError, tarfile.TarError) as error:
            raise InputError(f"{packed}: damaged ({error}); pack it again: {PACKED}") from error
        if f"{name}/{needed}" not in found:
            raise InputError(f"{packed}: holds no {needed}; pack it again: {PACKED}")
    return found


def _package(folder: Path, name: str, version: int) -> Path:
    named = re.compile(rf"{name}-{version}\.\d+\.\d+\.tgz")
    there = [path for path in sorted(folder.glob("*.tgz")) if named.fullmatch(path.name)]
    if len(there) == 1:
        return there[0]
    told = f"several, {there[0].name} and {there[1].name}" if there else f"no {name}-{version}"
    raise InputError(f"{folder}: {told}; in a folder of its own run: {PACKED}")
