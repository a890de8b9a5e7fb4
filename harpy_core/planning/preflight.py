"""What can be seen to be wrong with a source before anything runs.

Reads names and JSON metadata with the standard library only, so that a workflow can be refused
while it is parsed. Opening and reading the arrays is `harpy_core.raster`'s.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from harpy_core.config.cases import image_cases, key_of
from harpy_core.config.mistakes import mistake
from harpy_core.config.models import DATASETS, PEER, Benchmark, Config, Origin, Source
from harpy_core.config.section import suggestion
from harpy_core.raster.info import METADATA, PROTOCOLS

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf2", ".tf8")


class Tree(Protocol):
    """The names and small files of a Zarr store."""

    def files(self, group: str) -> list[str]:
        """Names directly below a group."""

    def text(self, path: str) -> str | None:
        """Content of a file; None where there is none."""


class FolderTree:
    """A store that is a folder."""

    def __init__(self, root: str) -> None:
        self._root = Path(root)

    def files(self, group: str) -> list[str]:
        folder = self._root / group
        return sorted(os.listdir(folder)) if folder.is_dir() else []

    def text(self, path: str) -> str | None:
        file = self._root / path
        return file.read_text(encoding="utf-8") if file.is_file() else None


class ZipTree:
    """A store that is a zip file, at its root or in its one folder."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._names = set(archive.namelist())
        tops = [name for name in self._names if PurePosixPath(name).name in METADATA]
        top = min(tops, key=lambda name: name.count("/"), default="")
        self._prefix = top.rpartition("/")[0]

    def files(self, group: str) -> list[str]:
        start = "".join(f"{part}/" for part in (self._prefix, group) if part)
        below = {
            name[len(start) :].partition("/")[0]
            for name in self._names
            if name[: len(start)] == start
        }
        return sorted(below - {""})

    def text(self, path: str) -> str | None:
        name = f"{self._prefix}/{path}" if self._prefix else path
        return self._archive.read(name).decode() if name in self._names else None


def check(config: Config, file: str) -> None:
    """Refuse a config whose sources cannot be what they are said to be.

    Raises
    ------
    InputError
        In one line: file, key, value and remedy.
    """
    for dataset, origin in config.datasets.items():
        _check_origin(origin, file, ("datasets", dataset))
    for name, image in image_cases(config).items():
        _check_source(image.source, file, key_of(name))
    for name, case in config.cases.items():
        index = case.extract.index if case.extract else None
        if isinstance(index, str) and not Path(index).is_file():
            path = ("cases", name, "extract", "index")
            raise mistake(file, path, index, "there is no such file; correct the path")
        if case.benchmark is not None:
            _check_peer(case.benchmark, file, ("cases", name, "benchmark"))


def check_cores(config: Config, case: str, cores: int, file: str) -> None:
    """Refuse a sweep that asks for more threads than there are cores: Snakemake would cap them.

    Raises
    ------
    InputError
        In one line: file, key, value and remedy.
    """
    sweep = config.cases[case].benchmark
    if sweep is None:
        return
    path: tuple[str, ...] = ("cases", case, "benchmark", "workers")
    alike = sweep.workers.aggregate == sweep.workers.extract
    for stage in sweep.stages:
        for index, workers in enumerate(getattr(sweep.workers, stage)):
            threads = workers * sweep.threads_per_worker
            if threads > cores:
                raise mistake(
                    file,
                    (*path, index) if alike else (*path, stage, index),
                    workers,
                    f"{workers} x {sweep.threads_per_worker} threads are more than the {cores} of "
                    "--cores: ask for fewer, or give more cores",
                )


def is_remote(uri: str) -> bool:
    """Whether a source is an address rather than a path or a registered name."""
    return "://" in uri


def watched_files(source: Source) -> list[str]:
    """The local files whose age tells that a source changed: a TIFF, a zip, a store's metadata.

    Empty for addresses and registered names.
    """
    if source.uri in DATASETS or is_remote(source.uri):
        return []
    return [_watched(path) for path in (source.uri, _label_file(source)) if path is not None]


def _watched(path: str) -> str:
    if not os.path.isdir(path):
        return path
    return next(
        (os.path.join(path, name) for name in METADATA if os.path.exists(os.path.join(path, name))),
        path,
    )


def _label_file(source: Source) -> str | None:
    """Path of a source's labels where they are a file of their own, as given or beside the image.

    None where the name is an element's, or there is no such file.
    """
    if source.labels is None or Path(source.uri, "labels", source.labels).exists():
        return None
    places = (Path(source.labels), Path(source.uri).parent / source.labels)
    return next((str(place) for place in places if place.exists()), None)


def _check_origin(origin: Origin, file: str, path: tuple[str, ...]) -> None:
    archive, store = origin.archive, origin.store
    if archive is not None and not zipfile.is_zipfile(archive):
        there = "is not a zip" if os.path.exists(archive) else "there is no such file"
        raise mistake(file, (*path, "archive"), archive, f"{there}: correct the path")
    if store is not None and not is_remote(store) and not os.path.exists(store):
        raise mistake(file, (*path, "store"), store, "there is no such path: correct it")


def _check_source(source: Source, file: str, path: tuple[str, ...]) -> None:
    if source.uri in DATASETS:
        return
    if is_remote(source.uri):
        _check_address(source.uri, file, (*path, "uri"))
        return
    _check_readable(source.uri, file, (*path, "uri"))
    labels = _label_file(source)
    if labels is not None:
        _check_readable(labels, file, (*path, "labels"))
    if _looks_like_tiff(source.uri):
        _check_label_file(source, file, path)
        return
    with _opened(source.uri, file, (*path, "uri")) as tree:
        _check_elements(tree, source, file, path)


def _check_address(uri: str, file: str, path: tuple[str, ...]) -> None:
    protocol = uri.partition("://")[0]
    if protocol not in PROTOCOLS:
        raise mistake(file, path, uri, f"addresses begin with {', '.join(PROTOCOLS)} and ://")
    if uri.lower().endswith(_TIFF_SUFFIXES):
        raise mistake(file, path, uri, "a TIFF is not read at an address: copy it here first")


def _check_readable(uri: str, file: str, path: tuple[str, ...]) -> None:
    if not os.path.exists(uri):
        names = f", nor a registered name ({', '.join(DATASETS)}){suggestion(uri, DATASETS)}"
        remedy = names if path[-1] == "uri" else ": correct the path of the label file"
        raise mistake(file, path, uri, f"there is no such path{remedy}")
    if not os.access(uri, os.R_OK | (os.X_OK if os.path.isdir(uri) else 0)):
        raise mistake(file, path, uri, "cannot be read: ask its owner for the permission")
    if _looks_like_tiff(uri):
        with open(uri, "rb") as handle:
            if handle.read(4) not in _TIFF_STARTS:
                raise mistake(file, path, uri, "is not a TIFF: copy or export it again")


def _looks_like_tiff(uri: str) -> bool:
    return uri.lower().endswith(_TIFF_SUFFIXES) and os.path.isfile(uri)


def _check_label_file(source: Source, file: str, path: tuple[str, ...]) -> None:
    if source.labels is None:
        raise mistake(file, (*path, "labels"), None, "a TIFF needs the path of its label TIFF")
    if _label_file(source) is None:
        _check_readable(source.labels, file, (*path, "labels"))


@contextmanager
def _opened(uri: str, file: str, path: tuple[str, ...]) -> Iterator[Tree]:
    if os.path.isdir(uri):
        tree = FolderTree(uri)
        _check_is_store(tree, uri, file, path)
        yield tree
        return
    if not zipfile.is_zipfile(uri):
        raise mistake(file, path, uri, "is not a Zarr store, a zipped one, or a TIFF (.tif, .tiff)")
    with zipfile.ZipFile(uri) as archive:
        zipped = ZipTree(archive)
        _check_is_store(zipped, uri, file, path)
        yield zipped


def _check_is_store(tree: Tree, uri: str, file: str, path: tuple[str, ...]) -> None:
    if not set(METADATA) & set(tree.files("")):
        remedy = "holds no Zarr metadata (zarr.json or .zgroup): name the store's own folder"
        raise mistake(file, path, uri, remedy)


def _check_elements(tree: Tree, source: Source, file: str, path: tuple[str, ...]) -> None:
    images = _elements(tree, "images")
    if images or source.image is not None:
        there = images or _elements(tree, "")
        _check_element(tree, source.image, there, "image", file, (*path, "image"))
    image = source.image or (images[0] if images else "")
    if image in images:
        image = f"images/{image}"
    if _label_file(source) is None and not is_remote(source.labels or ""):
        below = _elements(tree, "labels") or _elements(tree, f"{image}/labels".lstrip("/"))
        there = below or _elements(tree, "")
        _check_element(tree, source.labels, there, "labels element", file, (*path, "labels"))
    _check_channels(_channel_names(tree, image), source, file, (*path, "channels"))


def _check_element(
    tree: Tree, name: str | None, there: list[str], what: str, file: str, path: tuple[str, ...]
) -> None:
    """Refuse a name that is neither one of those that are there nor a path inside the store."""
    if name is None and len(there) == 1:
        return
    if name not in there and not (name and tree.files(name)):
        _refuse(name, there, what, file, path)


def _refuse(
    name: str | None, there: list[str], what: str, file: str, path: tuple[str, ...]
) -> None:
    names = f"there are {', '.join(there)}" if there else "there is none in the store"
    if name is None:
        raise mistake(file, path, None, f"name the {what} to use: {names}")
    raise mistake(file, path, name, f"no such {what}: {names}{suggestion(name, there)}")


def _elements(tree: Tree, group: str) -> list[str]:
    return [name for name in tree.files(group) if not name.startswith(".") and name != "zarr.json"]


def _channel_names(tree: Tree, group: str) -> list[str]:
    """Channel names of an image group, from its NGFF metadata; empty where it names none."""
    attributes = _attributes(tree, group)
    ngff = attributes.get("ome", attributes)
    channels = ngff.get("omero", ngff.get("channels_metadata", {})).get("channels", [])
    return [str(channel["label"]) for channel in channels if "label" in channel]


def _attributes(tree: Tree, group: str) -> dict[str, Any]:
    for name in ("zarr.json", ".zattrs"):
        text = tree.text(f"{group}/{name}".lstrip("/"))
        if text is not None:
            found: dict[str, Any] = json.loads(text)
            return found.get("attributes", {}) if name == "zarr.json" else found
    return {}


def _check_channels(there: list[str], source: Source, file: str, path: tuple[str, ...]) -> None:
    for index, name in enumerate(source.channels or ()):
        if there and name not in there:
            remedy = f"no such channel: there are {', '.join(there)}{suggestion(name, there)}"
            raise mistake(file, (*path, index), name, remedy)


def _check_peer(sweep: Benchmark, file: str, path: tuple[str, ...]) -> None:
    if PEER not in sweep.engines:
        return
    python = sweep.peer_python
    if python is None or not os.access(python, os.X_OK):
        raise mistake(
            file,
            (*path, "peer_python"),
            python,
            f"the engine {PEER} needs the Python of an environment made from envs/peer.yaml",
        )
