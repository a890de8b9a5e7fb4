"""Crops in the layouts of other programs: scPortrait's h5sc, folders of TIFFs, WebDataset."""

from __future__ import annotations

import io
import json
import os
import tarfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from harpy_core.errors import InputError
from harpy_core.extract.crops import Crops, open_crops
from harpy_core.raster.chunks import ChunkFiles
from harpy_core.storage.folders import local, room_for, staging

Layout = Literal["h5sc", "images", "webdataset"]

SHARD = 1000
"""Crops in one tar of a WebDataset."""

_NOTHING = "nothing was written"


@dataclass(frozen=True, slots=True)
class _Block:
    """Neighbouring crops of a store.

    Attributes
    ----------
    first
        Number of the first.
    image : (n, c, z, y, x)
        Pixels as they are stored.
    mask : (n, 1 or 2, z, y, x) uint8
        Masks; None in a store without.
    """

    first: int
    image: np.ndarray
    mask: np.ndarray | None


def export_crops(
    crops: Crops | str | os.PathLike[str],
    path: str | os.PathLike[str],
    layout: Layout,
    *,
    labels: Mapping[int, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write crops in the layout of another program, a chunk of the store at a time.

    Parameters
    ----------
    crops
        Store that `harpy_core.extract_instances` wrote.
    path
        File (``h5sc``) or folder to write; it appears when it is complete.
    layout
        ``h5sc``: scPortrait's single-cell file, an AnnData in HDF5 with the crops in
        ``obsm/single_cell_images``, (n, channels, y, x) float16: the instance's own mask first if
        there is one, then the channels, those of integers divided by their type's largest value.
        ``images``: a
        TIFF ``<label>.tif`` for each crop, (c, y, x) or (c, z, y, x), in a folder of its class if
        there are `labels`, as ImageFolder of torchvision has them. ``webdataset``: tars of 1,000
        crops, ``<label>.image.npy``, ``<label>.mask.npy`` if there are masks, and ``<label>.json``
        with instance_id, centroid and, if there are `labels`, label.
    labels
        Class of each instance, by its label in the segmentation.
    overwrite
        Replace what exists at `path`.

    Returns
    -------
    pathlib.Path
        The file or folder.

    Raises
    ------
    InputError
        There is no such layout, the crops or their pixels do not fit it, a crop has no class or one
        that is neither text nor a number, or the path is taken.
    """
    store = crops if isinstance(crops, Crops) else open_crops(crops)
    target = local(path)
    writers: dict[str, Callable[[Crops, Path, Mapping[int, Any] | None], None]] = {
        "h5sc": _h5sc,
        "images": _images,
        "webdataset": _webdataset,
    }
    if layout not in writers:
        raise InputError(f"layout = {layout!r}: choose {', '.join(get_args(Layout))}")
    if os.path.lexists(target) and not overwrite:
        raise InputError(f"{target}: already there; choose another path, or give overwrite=True")
    if layout == "h5sc" and store.image.shape[2] != 1:
        raise InputError(
            f"layout = 'h5sc': the crops of {store.path} have {store.image.shape[2]} planes, and "
            "h5sc has one; choose images or webdataset"
        )
    missing = [i for i in store.instance_id.tolist() if labels is not None and i not in labels]
    if missing:
        raise InputError(f"labels: instance {missing[0]} has none; give one for each crop")
    writers[layout](store, target, labels)
    return target


def _blocks(crops: Crops) -> Iterator[_Block]:
    """Yield the crops of a store, a chunk after the other, with all channels."""
    size, group = crops.image.chunks[:2]
    channels = crops.image.shape[1]
    image = ChunkFiles(crops.image, strict=True)
    mask = None if crops.mask is None else ChunkFiles(crops.mask, strict=True)
    for number, first in enumerate(range(0, len(crops), size)):
        rows = min(size, len(crops) - first)
        pixels = np.empty((rows, channels, *crops.image.shape[2:]), crops.image.dtype)
        chunk = np.empty(crops.image.chunks, crops.image.dtype)
        for c in range(-(-channels // group)):
            image.read((number, c, 0, 0, 0), chunk)
            there = pixels[:, c * group : (c + 1) * group]
            there[...] = chunk[:rows, : there.shape[1]]
        masks = None
        if mask is not None and crops.mask is not None:
            whole = np.empty(crops.mask.chunks, np.uint8)
            mask.read((number, 0, 0, 0, 0), whole)
            masks = whole[:rows]
        yield _Block(first, pixels, masks)


def _h5sc(crops: Crops, target: Path, labels: Mapping[int, Any] | None) -> None:
    import h5py

    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    masks = int(crops.mask is not None)
    number, height, width = len(crops), *crops.image.shape[3:]
    shape = (number, masks + len(crops.channels), height, width)
    try:
        with room_for(target, _NOTHING, 2 * int(np.prod(shape))):
            target.parent.mkdir(parents=True, exist_ok=True)
            _h5sc_table(crops, labels, masks).write_h5ad(temporary)
            with h5py.File(temporary, "a") as file:
                # HDF5 has no chunk larger than its array.
                chunks = {"chunks": (1, 1, height, width), "compression": "lzf"} if number else {}
                images = file.create_dataset("obsm/single_cell_images", shape, np.float16, **chunks)
                images.attrs["encoding-type"] = "array"
                images.attrs["encoding-version"] = "0.2.0"
                for block in _blocks(crops):
                    rows = slice(block.first, block.first + len(block.image))
                    if block.mask is not None:
                        images[rows, 0] = block.mask[:, 0, 0]
                    images[rows, masks:] = _shares(block.image[:, :, 0])
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _shares(pixels: np.ndarray) -> np.ndarray:
    """Pixels as float16; those of integers divided by their type's largest value.

    Raises
    ------
    InputError
        One is too large for float16.
    """
    if pixels.dtype.kind in "iu":
        return (pixels / np.iinfo(pixels.dtype).max).astype(np.float16)
    with np.errstate(over="ignore"):
        found = pixels.astype(np.float16)
    lost = np.isinf(found) & np.isfinite(pixels)
    if lost.any():
        raise InputError(
            f"layout = 'h5sc': a pixel of {np.abs(pixels[lost]).max():g} is too large for float16, "
            "which h5sc has; extract with a dtype and a scale, or choose images or webdataset"
        )
    return found


def _h5sc_table(crops: Crops, labels: Mapping[int, Any] | None, masks: int) -> Any:
    """Make the table of an h5sc file, all but the crops."""
    import pandas as pd
    from anndata import AnnData

    ids = crops.instance_id
    names = [*["mask"] * masks, *crops.channels]
    kinds = [*["mask"] * masks, *["image"] * len(crops.channels)]
    obs = pd.DataFrame(
        {"scportrait_cell_id": ids}, index=pd.Index(np.arange(len(ids)).astype(str), dtype=object)
    )
    if labels is not None:
        obs["label"] = [str(labels[i]) for i in ids.tolist()]
    rows = pd.Index(np.arange(len(names)).astype(str), dtype=object)
    var = pd.DataFrame({"channels": names, "channel_mapping": kinds}, index=rows)
    facts = {
        "channel_mapping": np.array(kinds),
        "channel_names": np.array(names),
        "compression": "lzf",
        "image_size": np.int64(crops.image.shape[-1]),
        "n_cells": np.int64(len(ids)),
        "n_channels": np.int64(len(names)),
        "n_image_channels": np.int64(len(crops.channels)),
        "n_masks": np.int64(masks),
    }
    spatial = crops.centroid[:, :0:-1].copy()
    return AnnData(obs=obs, var=var, obsm={"spatial": spatial}, uns={"single_cell_images": facts})


def _images(crops: Crops, target: Path, labels: Mapping[int, Any] | None) -> None:
    import tifffile

    axes = "CYX" if crops.image.shape[2] == 1 else "CZYX"
    metadata = {"axes": axes, "Labels": crops.channels}
    with staging(target) as folder:
        folder.mkdir(parents=True, exist_ok=True)
        for block in _blocks(crops):
            for row, pixels in enumerate(block.image):
                label = int(crops.instance_id[block.first + row])
                place = folder if labels is None else folder / _folder_name(labels[label])
                place.mkdir(exist_ok=True)
                tifffile.imwrite(
                    place / f"{label}.tif",
                    pixels[:, 0] if axes == "CYX" else pixels,
                    photometric="minisblack",
                    compression="zlib",
                    metadata=metadata,
                )


def _folder_name(label: Any) -> str:
    name = str(label)
    if not name or name.startswith(".") or "/" in name:
        raise InputError(f"labels: {name!r} cannot be the name of a folder; rename it")
    return name


def _webdataset(crops: Crops, target: Path, labels: Mapping[int, Any] | None) -> None:
    samples = (
        _members(crops, block, row, labels)
        for block in _blocks(crops)
        for row in range(len(block.image))
    )
    with staging(target) as folder:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "channels.json").write_text(json.dumps(crops.channels), encoding="utf-8")
        for number in range(-(-len(crops) // SHARD)):
            with tarfile.open(folder / f"crops-{number:06}.tar", "w") as shard:
                for name, content in chain.from_iterable(islice(samples, SHARD)):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    shard.addfile(info, io.BytesIO(content))


def _members(
    crops: Crops, block: _Block, row: int, labels: Mapping[int, Any] | None
) -> Iterator[tuple[str, bytes]]:
    """Yield the files of one crop in a tar."""
    place = block.first + row
    label = int(crops.instance_id[place])
    facts = {"instance_id": label, "centroid": crops.centroid[place].tolist()}
    if labels is not None:
        found = labels[label]
        facts["label"] = found.item() if hasattr(found, "item") else found
    try:
        told = json.dumps(facts).encode()
    except TypeError as error:
        raise InputError(
            f"labels: the class of instance {label} is a {type(found).__name__}: give text or a "
            "number"
        ) from error
    yield f"{label}.image.npy", _as_npy(block.image[row])
    if block.mask is not None:
        yield f"{label}.mask.npy", _as_npy(block.mask[row])
    yield f"{label}.json", told


def _as_npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()
