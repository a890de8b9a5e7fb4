"""Zarr stores that are a folder or a zip; see `harpy_core.raster.ngff` for their contents."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from harpy_core.errors import InputError
from harpy_core.raster.formats.format import (
    Choice,
    Element,
    Peek,
    ReusableFiles,
    Stamp,
    Storage,
    stamp,
    stamps_below,
)
from harpy_core.raster.formats.names import METADATA, refuse_long

if TYPE_CHECKING:
    import zarr

    from harpy_core.raster.chunks import ChunkFiles

LOCAL = True
ENDINGS: tuple[str, ...] = (".zarr",)

_DEPTH = 3
"""Groups inside each other that are searched for arrays."""

_BESIDE = ("tables", "points", "shapes")
"""Elements of SpatialData that hold neither image nor labels."""


def claims(uri: str) -> bool:
    """Whether a source is a Zarr store: all that the formats before it left."""
    return True


def peek(uri: str) -> Peek:
    """Look at the names and the metadata of a store."""
    if not os.path.isdir(uri) and not zipfile.is_zipfile(uri):
        raise InputError("is not a Zarr store, a zipped one, or a TIFF (.tif, .tiff)")
    tree: Tree = FolderTree(uri) if os.path.isdir(uri) else ZipTree(uri)
    if not set(METADATA) & set(tree.files("")):
        raise InputError(
            "holds no Zarr metadata (zarr.json or .zgroup): name the store's own folder"
        )
    return _Store(tree)


def watched(uri: str) -> list[str]:
    """Return the zip, or the metadata's file of the root, or of SpatialData's images."""
    if not os.path.isdir(uri):
        return [uri]
    images = os.path.join(uri, "images")
    folder = images if os.path.isdir(images) else uri
    places = (os.path.join(folder, name) for name in METADATA)
    return [next((place for place in places if os.path.exists(place)), uri)]


def stamps(uri: str) -> Iterable[Stamp]:
    """Stamps of the zip, or of a folder's files but SpatialData's tables, points and shapes.

    The metadata of its root is a copy of all elements' and changes with each: it is left out too.
    """
    if not os.path.isdir(uri):
        return [stamp(uri)]
    return _stamps_of(uri)


def _stamps_of(uri: str) -> Iterator[Stamp]:
    left_out = METADATA if os.path.isdir(os.path.join(uri, "images")) else ()
    with os.scandir(uri) as entries:
        for entry in entries:
            if entry.is_dir() and entry.name not in _BESIDE:
                yield from stamps_below(entry.path, f"{entry.name}/")
            elif entry.is_file() and entry.name not in left_out:
                yield stamp(entry.path, entry.name)


def open_image(uri: str, name: str | None, choice: Choice) -> Element:
    """Open an image in a store."""
    from harpy_core.raster import ngff

    return ngff.open_image(open_group(uri), uri, name, choice)


def open_labels(
    uri: str, name: str | None, image: str | None, choice: Choice, elsewhere: bool
) -> Element | None:
    """Open labels in a store."""
    from harpy_core.raster import ngff

    return ngff.open_labels(open_group(uri), uri, name, image, choice, elsewhere)


def open_alone(uri: str, choice: Choice) -> Element:
    """Open labels that are an array or a group of their own."""
    import zarr

    from harpy_core.raster import ngff
    from harpy_core.raster.untrusted import Folder

    if not Path(uri).exists():
        raise InputError(f"{uri}: nothing there; correct the path of the labels")
    try:
        node = zarr.open(Folder(uri, read_only=True), mode="r")
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise InputError(f"{uri}: neither a TIFF nor a Zarr array; correct the path") from error
    return ngff.element(node, uri, uri, "labels", choice)


def contents(uri: str, image: str | None, choice: Choice) -> Iterator[tuple[str, str]]:
    """Yield the kind of store, and the names of its elements."""
    from harpy_core.raster import ngff

    return ngff.contents(open_group(uri), image or "")


def owns(array: Any) -> bool:
    """Whether an array is a Zarr array, in whatever store."""
    import zarr

    return isinstance(array, zarr.Array)


def chunks(array: zarr.Array, strict: bool | None) -> ChunkFiles:
    """Return chunks that are read from their files, past the array interface where possible."""
    from harpy_core.raster.chunks import ChunkFiles

    return ChunkFiles(array, strict)


def folder_of(store: Any) -> str | None:
    """Path of a Zarr store that is a folder; None for any other store."""
    from zarr.storage import FsspecStore, LocalStore

    if isinstance(store, LocalStore):
        return str(store.root)
    if isinstance(store, FsspecStore):
        # The store with which Dask opens a path.
        named = store.fs.protocol
        if "file" in ((named,) if isinstance(named, str) else named):
            return str(store.path)
    return None


def facts(array: zarr.Array, times: bool) -> list[Any] | None:
    """Names, sizes and times of an array's files; nothing is known of one in memory."""
    from zarr.storage import ZipStore

    from harpy_core.raster import ngff

    store = array.store_path.store
    found: list[Any] = ngff.shape_facts(array)
    folder = folder_of(store)
    if folder is not None:
        below = sorted(stamps_below(os.path.join(folder, array.path)))
        return found + [[*each] if times else [*each[:2]] for each in below]
    if isinstance(store, ZipStore):
        _, size, changed = stamp(str(store.path))
        return [*found, array.path, size, *([changed] if times else [])]
    return None


def storage(array: zarr.Array, count: int) -> Storage:
    """Codec, shards, and the sizes of some files."""
    from harpy_core.raster import ngff

    return ngff.storage(array, count)


def files(array: zarr.Array) -> list[str]:
    """Paths of the zip, or of the files of the array's folder."""
    from zarr.storage import ZipStore

    store = array.store_path.store
    folder = folder_of(store)
    if folder is not None:
        root = os.path.join(folder, array.path)
        return [os.path.join(root, name) for name, _, _ in stamps_below(root)]
    return [str(store.path)] if isinstance(store, ZipStore) else []


def reusable(array: zarr.Array) -> ReusableFiles | None:
    """Return the chunk files, or shards, of an array in a folder."""
    from harpy_core.raster import chunk_files

    folder = folder_of(array.store_path.store)
    return None if folder is None else chunk_files.reusable(array, folder)


def open_group(uri: str) -> zarr.Group:
    """Open the root group of a store, read only.

    Raises
    ------
    InputError
        There is nothing, or no store.
    """
    import zarr

    from harpy_core.raster.untrusted import Folder

    path = Path(uri)
    if not path.exists():
        raise InputError(f"{uri}: nothing there; correct the path or make the store first")
    try:
        if path.is_dir():
            # Consolidated metadata may be older than the elements of the folder.
            store = Folder(path, read_only=True)
            return zarr.open_group(store, mode="r", use_consolidated=False)
        return _open_archive(path)
    except (FileNotFoundError, KeyError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{uri}: no Zarr group there ({type(error).__name__}); "
            "give a SpatialData or OME-Zarr store, or a TIFF"
        ) from error


def _open_archive(path: Path) -> zarr.Group:
    """Open the group inside a zip, at its root or in its only folder."""
    import zarr

    from harpy_core.raster.untrusted import Archive, refuse_long_members

    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: neither a folder, a zip nor a TIFF; correct source.uri")
    with zipfile.ZipFile(path) as archive:
        refuse_long_members(path, archive)
        names = archive.namelist()
    store = Archive(path, mode="r", read_only=True)
    if set(METADATA) & set(names):
        return zarr.open_group(store, mode="r")
    tops = {name.split("/", 1)[0] for name in names if "/" in name}
    if len(tops) != 1:
        raise InputError(f"{path}: {len(tops)} folders at the top; zip one store")
    return zarr.open_group(store, path=tops.pop(), mode="r")


# Looking without opening --------------------------------------------------------------------------


class _Store(Peek):
    """View of a store through the names of its elements and their channels in the metadata."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def images(self, named: bool) -> list[str] | None:
        declared = self.fields("") or self._names("images")
        if declared or named:
            return declared or self._names("")
        if self._metadata("").get("multiscales"):
            return None
        inside = [name for name in self._names("") if self._metadata(name).get("multiscales")]
        return inside or self._arrays("") or None

    def fields(self, image: str | None) -> list[str]:
        name = image or ""
        metadata = self._metadata(name)
        wells = [str(well["path"]) for well in metadata.get("plate", {}).get("wells", [])]
        if wells:
            return [field for well in wells for field in self.fields(f"{name}/{well}".strip("/"))]
        images = metadata.get("well", {}).get("images", [])
        return [f"{name}/{found['path']}".strip("/") for found in images]

    def labels(self, image: str) -> list[str] | None:
        declared = self._names("labels") or self._names(f"{self._group(image)}/labels".lstrip("/"))
        return declared or self._names("")

    def holds(self, name: str) -> bool:
        return bool(self._tree.files(name))

    def channels(self, image: str | None) -> list[str]:
        ngff = self._metadata(self._group(image or ""))
        found = ngff.get("omero", ngff.get("channels_metadata", {})).get("channels", [])
        return [str(channel["label"]) for channel in found if "label" in channel]

    def _arrays(self, group: str) -> list[str]:
        """Paths of the arrays below a group."""
        if ".zarray" in self._tree.files(group) or self._is_array(group):
            return [group]
        if group.count("/") >= _DEPTH:
            return []
        below = [f"{group}/{name}".lstrip("/") for name in self._names(group)]
        return [found for name in below for found in self._arrays(name)]

    def _is_array(self, group: str) -> bool:
        text = self._tree.text(f"{group}/zarr.json".lstrip("/"))
        return text is not None and json.loads(text).get("node_type") == "array"

    def _group(self, image: str) -> str:
        """Path of an image; if none is named, of the only one that is declared."""
        declared = self._names("images")
        name = image or (declared[0] if declared else "")
        return f"images/{name}" if name in declared else name

    def _names(self, group: str) -> list[str]:
        found = self._tree.files(group)
        return [name for name in found if not name.startswith(".") and name != "zarr.json"]

    def _metadata(self, group: str) -> dict[str, Any]:
        """NGFF metadata of a group: under ``ome`` since version 0.5."""
        attributes = self._attributes(group)
        found: dict[str, Any] = attributes.get("ome", attributes)
        return found

    def _attributes(self, group: str) -> dict[str, Any]:
        for name in ("zarr.json", ".zattrs"):
            text = self._tree.text(f"{group}/{name}".lstrip("/"))
            if text is not None:
                found: dict[str, Any] = json.loads(text)
                return found.get("attributes", {}) if name == "zarr.json" else found
        return {}


class Tree(Protocol):
    """Names and small files of a Zarr store."""

    def files(self, group: str) -> list[str]:
        """Names directly below a group."""

    def text(self, path: str) -> str | None:
        """Return the content of a file; None if there is none."""


class FolderTree:
    """Tree of a store that is a folder."""

    def __init__(self, root: str) -> None:
        self._root = Path(root)

    def files(self, group: str) -> list[str]:
        folder = self._root / group
        return sorted(os.listdir(folder)) if folder.is_dir() else []

    def text(self, path: str) -> str | None:
        file = self._root / path
        if not file.is_file():
            return None
        refuse_long(path, file.stat().st_size)
        return file.read_text(encoding="utf-8")


class ZipTree:
    """Tree of a store that is a zip, at its root or in its only folder."""

    def __init__(self, path: str) -> None:
        self._path = path
        with zipfile.ZipFile(path) as archive:
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
        if name not in self._names:
            return None
        with zipfile.ZipFile(self._path) as archive:
            refuse_long(path, archive.getinfo(name).file_size)
            return archive.read(name).decode()
