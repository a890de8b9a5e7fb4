"""Zarr stores at an address; see `harpy_core.raster.remote_store` for how they are read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from harpy_core.errors import InputError
from harpy_core.raster.formats import tiff, zarr_store
from harpy_core.raster.formats.format import Choice, Element, Peek, Stamp, Storage
from harpy_core.raster.formats.names import PROTOCOLS

if TYPE_CHECKING:
    import zarr

    from harpy_core.raster.chunks import ChunkFiles

LOCAL = False
ENDINGS: tuple[str, ...] = ()


def claims(uri: str) -> bool:
    """Whether a source is at an address rather than a path."""
    return "://" in uri


def peek(uri: str) -> Peek:
    """Refuse what is evidently not the address of a store; nothing is fetched."""
    if uri.partition("://")[0] not in PROTOCOLS:
        raise InputError(f"addresses begin with {', '.join(PROTOCOLS)} and ://")
    if tiff.claims(uri):
        raise InputError("a TIFF is not read at an address: copy it here first")
    return Peek()


def watched(uri: str) -> list[str]:
    """Return nothing: no server is asked while a workflow is parsed."""
    return []


def stamps(uri: str) -> list[Stamp]:
    """Return nothing: no server is asked while a workflow is parsed."""
    return []


def open_image(uri: str, name: str | None, choice: Choice) -> Element:
    """Open an image in a store at an address."""
    from harpy_core.raster import ngff

    return ngff.open_image(open_group(uri, choice.options), uri, name, choice)


def open_labels(
    uri: str, name: str | None, image: str | None, choice: Choice, elsewhere: bool
) -> Element | None:
    """Open labels in a store at an address."""
    from harpy_core.raster import ngff

    return ngff.open_labels(open_group(uri, choice.options), uri, name, image, choice, elsewhere)


def open_alone(uri: str, choice: Choice) -> Element:
    """Open labels at an address of their own."""
    import zarr

    from harpy_core.raster import ngff

    return ngff.element(_opened(zarr.open, uri, choice.options), uri, uri, "labels", choice)


def contents(uri: str, image: str | None, choice: Choice) -> Iterator[tuple[str, str]]:
    """Yield the contents of a store at an address."""
    from harpy_core.raster import ngff

    return ngff.contents(open_group(uri, choice.options), image or "")


def owns(array: Any) -> bool:
    """Whether a Zarr array is in a store that fsspec reaches, other than the local disk."""
    import zarr
    from zarr.storage import FsspecStore

    if not isinstance(array, zarr.Array):
        return False
    store = array.store_path.store
    return isinstance(store, FsspecStore) and zarr_store.folder_of(store) is None


def chunks(array: zarr.Array, strict: bool | None) -> ChunkFiles:
    """Return chunks that are read through the array interface, which fetches them."""
    from harpy_core.raster.chunks import ChunkFiles

    return ChunkFiles(array, strict)


def facts(array: zarr.Array, times: bool) -> list[Any] | None:
    """Version of the metadata by the server, which a chunk written in place does not change."""
    from harpy_core.raster import ngff
    from harpy_core.raster.remote_store import version_of

    version = version_of(array)
    return None if version is None else [*ngff.shape_facts(array), str(array.store_path), *version]


def keeping(array: zarr.Array, folder: str | os.PathLike[str]) -> zarr.Array:
    """Return the array with a folder that keeps what is fetched of it."""
    import zarr

    from harpy_core.raster.remote_store import keep_array_in

    store: Any = array.store_path.store
    kept = keep_array_in(store, array.path, folder)
    return zarr.open_array(kept, path=array.path, mode="r")


def storage(array: zarr.Array, count: int) -> Storage:
    """Codec, shards, and the sizes of some objects."""
    from harpy_core.raster import ngff

    return ngff.storage(array, count)


def files(array: zarr.Array) -> list[str]:
    """Return nothing: it is at an address."""
    return []


def reusable(array: Any) -> None:
    """Return None: it is at an address."""


def open_group(uri: str, options: Mapping[str, Any] | None) -> zarr.Group:
    """Open the root group of a store at an address, read only.

    Raises
    ------
    InputError
        There is nothing, no store, or no access.
    """
    import zarr

    group: zarr.Group = _opened(zarr.open_group, uri, options)
    return group


def _opened(open_it: Callable[..., Any], uri: str, options: Mapping[str, Any] | None) -> Any:
    from harpy_core.raster.remote_store import open_remote

    if tiff.claims(uri):
        raise InputError(f"{uri}: a TIFF is not read at an address; copy it here first")
    store = open_remote(uri, options)
    try:
        return open_it(store, mode="r")
    except (FileNotFoundError, KeyError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise store.why_not() from error
