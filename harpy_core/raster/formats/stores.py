"""The root group of a Zarr store: a folder, a zip, or an address."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import zarr
from zarr.storage import LocalStore, ZipStore

from harpy_core.errors import InputError
from harpy_core.raster.info import METADATA


def is_address(uri: str) -> bool:
    """Whether a source is at an address rather than a path."""
    return "://" in uri


def open_group(uri: str, options: Mapping[str, Any] | None = None) -> zarr.Group:
    """Open the root group of a store, read only.

    Parameters
    ----------
    uri
        A folder, a zip that holds one store, or an address of either.
    options
        For an address: what fsspec takes for its protocol.

    Raises
    ------
    InputError
        Nothing there, no store, no access.
    """
    if is_address(uri):
        group: zarr.Group = _at_address(zarr.open_group, uri, options)
        return group
    path = Path(uri)
    if not path.exists():
        raise InputError(f"{uri}: nothing there; correct the path or make the store first")
    try:
        if path.is_dir():
            # Consolidated metadata may be older than the elements of the folder.
            store = LocalStore(path, read_only=True)
            return zarr.open_group(store, mode="r", use_consolidated=False)
        return _open_archive(path)
    except (FileNotFoundError, KeyError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{uri}: no Zarr group there ({type(error).__name__}); "
            "give a SpatialData or OME-Zarr store, or a TIFF"
        ) from error


def open_node(uri: str, options: Mapping[str, Any] | None = None) -> zarr.Array | zarr.Group:
    """Open an array or a group that is named by a path or an address of its own.

    Raises
    ------
    InputError
        Neither is there.
    """
    if is_address(uri):
        return _at_address(zarr.open, uri, options)
    if not Path(uri).exists():
        raise InputError(f"{uri}: nothing there; correct the path of the labels")
    try:
        return zarr.open(LocalStore(uri, read_only=True), mode="r")
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise InputError(f"{uri}: neither a TIFF nor a Zarr array; correct the path") from error


def _at_address(open_it: Callable[..., Any], uri: str, options: Mapping[str, Any] | None) -> Any:
    from harpy_core.raster.formats.remote import open_remote

    store = open_remote(uri, options)
    try:
        return open_it(store, mode="r")
    except (FileNotFoundError, KeyError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise store.why_not() from error


def _open_archive(path: Path) -> zarr.Group:
    """The group inside a zip, at its root or in its only folder."""
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: neither a folder, a zip nor a TIFF; correct source.uri")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    store = ZipStore(path, mode="r", read_only=True)
    if set(METADATA) & set(names):
        return zarr.open_group(store, mode="r")
    tops = {name.split("/", 1)[0] for name in names if "/" in name}
    if len(tops) != 1:
        raise InputError(f"{path}: {len(tops)} folders at the top; zip one store")
    return zarr.open_group(store, path=tops.pop(), mode="r")
