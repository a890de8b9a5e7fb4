"""A page with Vitessce, its server on a thread, and packages in which its scripts are empty."""

from __future__ import annotations

import io
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from harpy_core.viewing.scenes import Scene
from harpy_core.viewing.serving import Server
from harpy_core.viewing.site import place_of, site_of


@contextmanager
def served(name: str, scene: Scene, bundle: Mapping[str, bytes] | None = None) -> Iterator[str]:
    """Address of a page, with the scripts of a bundle or without."""
    with Server(site_of({name: scene}, bundle or {})) as server:
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield server.url + place_of(name)
        finally:
            server.shutdown()
            thread.join()


PACKAGES = {
    "vitessce-4.0.8.tgz": ["dist/index.min.js", "dist/index-x1_-.js", "src/index.js", "README.md"],
    "react-18.3.1.tgz": ["umd/react.production.min.js", "umd/react.development.js"],
    "react-dom-18.3.1.tgz": ["umd/react-dom.production.min.js", "../../umd/x.js"],
}
"""Files of packages."""


def packed(folder: Path) -> Path:
    """A folder with the packages; the content of a file is its path."""
    folder.mkdir(exist_ok=True)
    for name, files in PACKAGES.items():
        pack(folder / name, files)
    return folder


def pack(path: Path, files: list[str]) -> None:
    """Write a package as npm does."""
    with tarfile.open(path, "w:gz") as archive:
        for name in files:
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
