"""Batches of crops for training, as NumPy arrays: shuffled, shared evenly, normalised.

`harpy_core.training.dataset.CropDataset` turns them into PyTorch tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from harpy_core.errors import InputError
from harpy_core.extract.crops import Crops
from harpy_core.raster.chunks import ChunkFiles
from harpy_core.tiles.labels import checked_labels
from harpy_core.training.epochs import Even, block_order, check_even, per_part, row_generator, share
from harpy_core.training.normalisation import (
    AS_STORED,
    Normalisation,
    Normalise,
    Sources,
    channel_numbers,
    normalisation,
)

Layout = dict[str, tuple[tuple[int, ...], np.dtype]]
"""Shape and type of each array of a batch."""
Held = TypeVar("Held")


@dataclass(frozen=True, slots=True)
class Batch:
    """Some crops.

    Attributes
    ----------
    image
        Pixels, (n, c, z, y, x), or (n, c, y, x) with `squeeze_z`.
    instance_id : (n,) uint64
        Label of each crop in the label image.
    label
        Targets of the training, (n, …) int64 or float32; None where not given.
    mask
        Masks, (n, 1, z, y, x) uint8, z as in `image`, or (n, 2, …) with neighbours; None where not
        asked for.
    """

    image: np.ndarray
    instance_id: np.ndarray
    label: np.ndarray | None
    mask: np.ndarray | None


def fresh(layout: Layout) -> dict[str, np.ndarray]:
    """Allocate arrays for a batch."""
    return {name: np.empty(shape, dtype) for name, (shape, dtype) in layout.items()}


@dataclass(frozen=True, slots=True)
class _Source:
    """An array of crops, and the parts of it that are read.

    Attributes
    ----------
    files
        Files of its chunks.
    chunk
        Shape of a chunk.
    pixels
        Type of decoded pixels.
    groups
        Numbers of the chunks along the channels that are read.
    group, place : (c,) int64
        Index in `groups` of each channel in use, and its number there.
    normalisation
        Normalisation of its pixels.
    """

    files: ChunkFiles
    chunk: tuple[int, ...]
    pixels: np.dtype
    groups: tuple[int, ...]
    group: np.ndarray
    place: np.ndarray
    normalisation: Normalisation

    @property
    def dtype(self) -> np.dtype:
        """Type of a batch."""
        return self.normalisation.dtype(self.pixels)

    def buffer(self, blocks: int) -> np.ndarray:
        """Allocate decoded chunks, (blocks, groups, rows, channels of a group, z, y, x)."""
        return np.empty((blocks, len(self.groups), *self.chunk), self.pixels)

    def decode(self, block: int, out: np.ndarray) -> None:
        """Decode all groups of one block, each straight into its place."""
        for group, chunk in zip(self.groups, out, strict=True):
            self.files.read((block, group, 0, 0, 0), chunk)

    def gather(
        self, chunks: np.ndarray, block: np.ndarray, row: np.ndarray, out: np.ndarray
    ) -> None:
        """Fill a batch, (n, c, …), from rows of decoded chunks."""
        self.normalisation.gather(
            chunks.reshape(*chunks.shape[:4], -1),
            Sources(block, row, self.group, self.place),
            out.reshape(*out.shape[:2], -1),
        )


def _source(array: Any, channels: Sequence[int], normalisation: Normalisation) -> _Source:
    if array.chunks[2:] != array.shape[2:]:
        raise InputError(
            f"{array.store_path}: chunks {array.chunks} cut crops of {array.shape[2:]} apart; "
            "extract them anew"
        )
    group, place = np.divmod(np.asarray(channels), array.chunks[1])
    groups, group = np.unique(group, return_inverse=True)
    return _Source(
        ChunkFiles(array, strict=True),
        array.chunks,
        np.dtype(array.dtype).newbyteorder("="),
        tuple(groups.tolist()),
        group,
        place,
        normalisation,
    )


@dataclass(frozen=True, slots=True)
class _Window:
    """Decoded blocks, and the crops that are taken from them, in the order of the epoch."""

    chunks: dict[str, np.ndarray]
    block: np.ndarray
    row: np.ndarray
    crop: np.ndarray


class CropBatches:
    """Batches of the crops of a store.

    Whole chunks are read, one `mix` of them ahead in a thread of its own; memory holds twice `mix`
    decoded chunks of the channels in use, and the batches that the caller holds.

    Parameters
    ----------
    crops
        The store.
    batch_size
        Crops in a batch; it need not match the chunks of the store.
    channels
        Names or numbers of the channels, in the desired order; None for all. Chunks that hold none
        of them are not read.
    index
        Labels of the instances to read, such as those of one side of a train/test split; None for
        all.
    labels
        Targets of each instance, one number or several: a mapping or a pandas Series by instance
        id, or an array (i, …) in the order of the store.
    mask
        Return masks too.
    squeeze_z
        Leave out the z axis; it must be one pixel long.
    normalise
        ``dtype``: divide by the largest value of the pixels' type; crops stored as floats with a
        scale stay as they are. ``percentile``: map `crop_percentiles` of each channel, over the
        whole store, to 0 and 1, and clip; a pair (low, high) of one number for each channel in
        use is mapped in the same way. ``crop``: map the minimum and maximum of each channel of
        each crop to 0 and 1. All of these give float32. None: pixels as they are stored.
    shuffle
        Draw a new order in each epoch; otherwise keep the order of the store.
    mix
        Number of chunks that crops are shuffled across at a time. With 1, neighbours in a batch
        are from one chunk (or two) of the store.
    seed
        Seed of the orders and of the sample for percentiles.
    even
        Way to give parts one length: ``pad`` repeats, and ``drop`` leaves out, fewer instances than
        there are parts.
    drop_last
        Leave out a last batch that is not full.

    Raises
    ------
    InputError
        The store lacks what is asked for, or there is no such choice.
    """

    def __init__(
        self,
        crops: Crops,
        *,
        batch_size: int = 64,
        channels: Sequence[int] | Sequence[str] | None = None,
        index: Sequence[int] | np.ndarray | None = None,
        labels: Mapping[int, Any] | pd.Series | np.ndarray | Sequence[Any] | None = None,
        mask: bool = False,
        squeeze_z: bool = False,
        normalise: Normalise = None,
        shuffle: bool = True,
        mix: int = 1,
        seed: int = 0,
        even: Even = "pad",
        drop_last: bool = False,
    ) -> None:
        _at_least(batch_size=(batch_size, 1), mix=(mix, 1), seed=(seed, 0))
        check_even(even)
        if mask and crops.mask is None:
            raise InputError(f"{crops.path}: it has no masks; extract with extract_mask")
        if squeeze_z and crops.image.shape[2] != 1:
            raise InputError(
                f"squeeze_z: the crops of {crops.path} have {crops.image.shape[2]} pixels along z"
            )
        numbers = channel_numbers(crops, channels)
        self.crops = crops
        self.batch_size, self.shuffle, self.mix, self.seed = batch_size, shuffle, mix, seed
        self.even, self.drop_last = even, drop_last
        self._rows = _rows(crops, index)
        self._labels = None if labels is None else _aligned(labels, crops, self._rows)
        way = normalisation(normalise, crops, numbers, seed)
        self._sources = {"image": _source(crops.image, numbers, way)}
        if crops.mask is not None and mask:
            self._sources["mask"] = _source(crops.mask, range(crops.mask.shape[1]), AS_STORED)
        self._window_shape = crops.image.shape[3 if squeeze_z else 2 :]
        block = self._rows // crops.image.chunks[0]
        self._blocks, self._sizes = np.unique(block, return_counts=True)
        self._first = np.cumsum(self._sizes) - self._sizes

    def __len__(self) -> int:
        """Number of instances to read."""
        return len(self._rows)

    def steps(self, parts: int = 1) -> int:
        """Number of batches that each part has in an epoch."""
        return len(self.batch_sizes(parts))

    def batch_sizes(self, parts: int = 1) -> list[int]:
        """Number of crops of each batch of an epoch: the same for each part."""
        whole, rest = divmod(per_part(len(self), parts, self.even), self.batch_size)
        return [self.batch_size] * whole + ([rest] if rest and not self.drop_last else [])

    def batches(self, epoch: int = 0, part: int = 0, parts: int = 1) -> Iterator[Batch]:
        """Yield the batches of one part in one epoch: always the same ones.

        Parameters
        ----------
        epoch
            Number of the epoch; each has an order of its own.
        part, parts
            Number of the part, and of all parts; together they yield every instance.

        Raises
        ------
        InputError
            There are more parts than instances and `even` is ``drop``, there is no such part or
            epoch, or a chunk cannot be read.
        """
        for arrays in self.filled(epoch, part, parts, fresh):
            yield Batch(
                arrays["image"], arrays["instance_id"], arrays.get("label"), arrays.get("mask")
            )

    def filled(
        self, epoch: int, part: int, parts: int, allocate: Callable[[Layout], dict[str, Held]]
    ) -> Iterator[dict[str, Held]]:
        """Yield the same as `batches`, in memory of the caller's.

        Parameters
        ----------
        epoch, part, parts
            See `batches`.
        allocate
            Function called before each batch, for objects that `numpy.asarray` views as the
            batch's arrays; they are yielded filled.
        """
        _at_least(parts=(parts, 1), part=(part, 0), epoch=(epoch, 0))
        if part >= parts:
            raise InputError(f"part = {part}: there are {parts}, counted from 0")
        if per_part(len(self), parts, self.even) == 0:
            raise InputError(
                f"{self.crops.path}: {len(self)} instances for {parts} parts, and none is left "
                "for each with even = 'drop'; choose pad, or fewer ranks or workers"
            )
        with closing(self._windows(epoch, part, parts)) as windows:
            window, used = next(windows), 0
            for size in self.batch_sizes(parts):
                batch = allocate(self._layout(size))
                arrays = {name: np.asarray(held) for name, held in batch.items()}
                done = 0
                while done < size:
                    if used == len(window.row):
                        window, used = next(windows), 0
                    count = min(size - done, len(window.row) - used)
                    some = {name: array[done : done + count] for name, array in arrays.items()}
                    self._gather(window, slice(used, used + count), some)
                    used, done = used + count, done + count
                yield batch

    def _layout(self, size: int) -> Layout:
        layout: Layout = {
            name: ((size, len(source.group), *self._window_shape), source.dtype)
            for name, source in self._sources.items()
        }
        layout["instance_id"] = (size,), np.dtype(np.uint64)
        if self._labels is not None:
            layout["label"] = (size, *self._labels.shape[1:]), self._labels.dtype
        return layout

    def _windows(self, epoch: int, part: int, parts: int) -> Generator[_Window]:
        """Yield decoded blocks, one or several at a time, while the next are being decoded."""
        blocks = np.arange(len(self._sizes))
        order = block_order(len(blocks), self.seed, epoch) if self.shuffle else blocks
        rng = row_generator(self.seed, epoch, part)
        shares = share(self._sizes, order, part, parts, self.even)
        turns = [shares[i : i + self.mix] for i in range(0, len(shares), self.mix)]
        most = min(self.mix, len(shares))
        buffers = [
            {name: source.buffer(most) for name, source in self._sources.items()} for _ in turns[:2]
        ]
        with ThreadPoolExecutor(1) as pool:
            decoding = pool.submit(self._decode, turns[0], buffers[0])
            for number, turn in enumerate(turns):
                decoding.result()
                if number + 1 < len(turns):
                    following = turns[number + 1], buffers[(number + 1) % 2]
                    decoding = pool.submit(self._decode, *following)
                yield self._window(turn, buffers[number % 2], rng)

    def _decode(self, shares: np.ndarray, chunks: dict[str, np.ndarray]) -> None:
        for place, block in enumerate(self._blocks[shares[:, 0]].tolist()):
            for name, source in self._sources.items():
                source.decode(block, chunks[name][place])

    def _window(
        self, shares: np.ndarray, chunks: dict[str, np.ndarray], rng: np.random.Generator
    ) -> _Window:
        counts = shares[:, 2] - shares[:, 1]
        starts = self._first[shares[:, 0]] + shares[:, 1]
        crop = self._rows[
            np.concatenate([np.arange(a, a + n) for a, n in zip(starts, counts, strict=True)])
        ]
        block = np.repeat(np.arange(len(shares)), counts)
        row = crop % self.crops.image.chunks[0]
        if self.shuffle:
            drawn = rng.permutation(len(crop))
            block, row, crop = block[drawn], row[drawn], crop[drawn]
        return _Window(chunks, block, row, crop)

    def _gather(self, window: _Window, some: slice, out: dict[str, np.ndarray]) -> None:
        """Fill the next crops of a batch."""
        crop = window.crop[some]
        out["instance_id"][...] = self.crops.instance_id[crop]
        if self._labels is not None:
            out["label"][...] = self._labels[crop]
        for name, source in self._sources.items():
            source.gather(window.chunks[name], window.block[some], window.row[some], out[name])


def _at_least(**given: tuple[int, int]) -> None:
    for name, (value, least) in given.items():
        if value < least:
            raise InputError(f"{name} = {value}: at least {least}")


def _rows(crops: Crops, index: Sequence[int] | np.ndarray | None) -> np.ndarray:
    """Numbers of the crops to read, in the order of the store."""
    if index is None:
        found = np.arange(len(crops))
    else:
        wanted = np.unique(checked_labels(index, "index"))
        found = np.flatnonzero(np.isin(crops.instance_id, wanted))
        if len(found) < len(wanted):
            missing = np.setdiff1d(wanted, crops.instance_id)
            raise InputError(
                f"index: {len(missing)} of {len(wanted)} instances have no crop in {crops.path}, "
                f"{missing[0]} first; leave them out"
            )
    if len(found) == 0:
        raise InputError(f"{crops.path}: no crops to read; name some in index, or extract some")
    return found


def _aligned(labels: Any, crops: Crops, rows: np.ndarray) -> np.ndarray:
    """Labels in the order of the store, (i, …) int64 or float32; arbitrary where not read.

    Raises
    ------
    InputError
        Labels are not numbers, or are missing for an instance that is read.
    """
    if isinstance(labels, pd.Series):
        labels = labels.dropna()
        labels = dict(zip(labels.index.tolist(), labels.tolist(), strict=True))
    if isinstance(labels, Mapping):
        ids = checked_labels(list(labels), "labels")
        values = _numbers(list(labels.values()))
        order = np.argsort(ids)
        place = np.searchsorted(ids[order], crops.instance_id)
        place[place == len(ids)] = 0
        known = ids[order][place] == crops.instance_id if len(ids) else np.zeros(len(crops), bool)
        aligned = values[order][place] if len(ids) else np.zeros(len(crops))
    else:
        aligned = _numbers(labels)
        if aligned.ndim == 0 or len(aligned) != len(crops):
            raise InputError(
                f"labels: an array of shape {aligned.shape} for {len(crops)} crops; give one "
                "for each in the order of instance_id, or a mapping by instance id"
            )
        known = np.ones(len(crops), bool)
    known &= ~np.isnan(aligned.reshape(len(crops), -1)).any(axis=1)
    missing = rows[~known[rows]]
    if missing.size:
        raise InputError(
            f"labels: {len(missing)} of {len(rows)} instances have none, "
            f"{crops.instance_id[missing[0]]} first; label them, or leave them out through index"
        )
    return aligned.astype(np.float32 if aligned.dtype.kind == "f" else np.int64)


def _numbers(labels: Any) -> np.ndarray:
    try:
        values = np.asarray(labels)
    except ValueError as error:
        raise InputError("labels: they are not all of one shape") from error
    if values.dtype.kind not in "biuf":
        raise InputError(
            f"labels: {values.dtype} is no type of numbers; number the classes first, "
            "as pandas.factorize does"
        )
    return values
