"""Normalisation of crops for a model: float32 around 0 to 1, channel by channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from harpy_core.errors import InputError
from harpy_core.extract.crops import Crops
from harpy_core.raster.chunks import ChunkFiles
from harpy_core.training import gathering

Limits = tuple[Any, Any]
Normalise = Literal["dtype", "percentile", "crop"] | Limits | None

_SAMPLED_CHUNKS = 8


@dataclass(frozen=True, slots=True)
class Sources:
    """Places of a batch's pixels in decoded chunks.

    Attributes
    ----------
    block, row : (n,) int64
        Decoded chunk of each crop, and its row there.
    group, place : (c,) int64
        Group of channels of each channel, and its number there.
    """

    block: np.ndarray
    row: np.ndarray
    group: np.ndarray
    place: np.ndarray


@dataclass(frozen=True, slots=True)
class Normalisation:
    """Arithmetic on pixels on their way into a batch.

    Attributes
    ----------
    kind
        ``none``; ``scaled``: `low` subtracted, divided by `span`, clipped to `bounds`;
        ``stretched``: from the minimum and maximum of each channel of each crop.
    low, span : (c,)
        Values for each channel, in the type of the arithmetic.
    bounds : (2,)
        Least and largest value.
    """

    kind: Literal["none", "scaled", "stretched"]
    low: np.ndarray
    span: np.ndarray
    bounds: np.ndarray

    def dtype(self, pixels: np.dtype) -> np.dtype:
        """Type of a batch made of `pixels`."""
        return pixels if self.kind == "none" else np.dtype(np.float32)

    def gather(self, chunks: np.ndarray, at: Sources, out: np.ndarray) -> None:
        """Fill a batch.

        Parameters
        ----------
        chunks : (blocks, groups, rows, channels of a group, pixels)
            Decoded chunks.
        at
            Places of the crops and channels in them.
        out : (n, c, pixels)
            Batch, C-contiguous, of `dtype`.
        """
        where = (at.block, at.row, at.group, at.place)
        if self.kind == "none":
            bits = np.dtype(f"u{chunks.itemsize}")
            gathering.copied(chunks.view(bits), *where, out.view(bits))
            return
        pixels = _compilable(chunks)
        if self.kind == "stretched":
            gathering.stretched(pixels, *where, self.low, out)
        else:
            gathering.scaled(pixels, *where, self.low, self.span, self.bounds, out)


AS_STORED = Normalisation("none", np.empty(0), np.empty(0), np.empty(0))
"""Normalisation that leaves pixels as they are."""


def _compilable(pixels: np.ndarray) -> np.ndarray:
    """Convert pixels to a type that the kernels are compiled for."""
    if pixels.dtype.kind == "b":
        return pixels.view(np.uint8)
    return pixels.astype(np.float32) if pixels.dtype == np.float16 else pixels


def normalisation(
    normalise: Normalise, crops: Crops, channels: Sequence[int], seed: int
) -> Normalisation:
    """Choose how crops are normalised.

    Parameters
    ----------
    normalise
        See `harpy_core.training.batches.CropBatches`.
    crops
        The store.
    channels
        Numbers of the channels in use.
    seed
        Seed of the sample from which percentiles are taken.

    Raises
    ------
    InputError
        There is no such way to normalise, or it does not suit these pixels or channels.
    """
    pixels = np.dtype(crops.image.dtype)
    free = (-np.inf, np.inf)
    count = len(channels)
    if normalise is None:
        return AS_STORED
    if isinstance(normalise, str):
        if normalise == "crop":
            return _made("stretched", pixels, np.zeros(count), np.ones(count), free)
        if normalise == "dtype":
            return _made(
                "scaled", pixels, np.zeros(count), np.full(count, _largest(crops, pixels)), free
            )
        if normalise != "percentile":
            raise InputError(
                f"normalise = {normalise!r}: not one of dtype, percentile, crop, "
                "None or a pair (low, high)"
            )
        normalise = crop_percentiles(crops, channels=channels, seed=seed)
    low, high = _checked(normalise, count)
    # A channel with one value everywhere becomes 0.
    span = np.where(high > low, high - low, np.inf)
    return _made("scaled", pixels, low, span, (0.0, 1.0))


def _made(
    kind: Literal["none", "scaled", "stretched"],
    pixels: np.dtype,
    low: np.ndarray,
    span: np.ndarray,
    bounds: tuple[float, float],
) -> Normalisation:
    # float32 holds every value of these types, and twice as many are processed at a time.
    narrow = pixels.itemsize <= 2 or pixels == np.float32
    work = np.float32 if narrow else np.float64
    return Normalisation(kind, low.astype(work), span.astype(work), np.asarray(bounds, dtype=work))


def _largest(crops: Crops, pixels: np.dtype) -> float:
    """Divisor of ``dtype``: 1 where pixels were scaled when they were stored."""
    if pixels.kind in "iu":
        return float(np.iinfo(pixels).max)
    if pixels.kind == "b" or crops.attributes.get("scale") is not None:
        return 1.0
    raise InputError(
        f"normalise = 'dtype': {pixels} crops stored without a scale have no largest value; "
        "choose percentile or crop, or give a pair (low, high)"
    )


def _checked(limits: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    try:
        low, high = (np.asarray(some, dtype=np.float64) for some in limits)
        low, high = np.broadcast_to(low, count), np.broadcast_to(high, count)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"normalise: a pair (low, high) holds one number for each of {count} channels, "
            "or one for all"
        ) from error
    wrong = np.flatnonzero(~(np.isfinite(low) & np.isfinite(high) & (low <= high)))
    if wrong.size:
        worst = wrong[0]
        raise InputError(
            f"normalise: channel {worst} goes from {low[worst]} to {high[worst]}; "
            "low must not be above high, and both finite"
        )
    return low, high


def crop_percentiles(
    crops: Crops,
    percentiles: tuple[float, float] = (1.0, 99.0),
    *,
    channels: Sequence[int] | Sequence[str] | None = None,
    sample: int = 1000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Low and high percentile of each channel inside the instances, from a sample of crops.

    The crops are drawn from 8 chunks of the store, which are drawn first. Inside is where the
    mask is 1, or, in a store without masks whose background was removed, where any channel is not
    0; in a store that has neither it is the whole window.

    Parameters
    ----------
    crops
        The store.
    percentiles
        Two percentiles, from 0 to 100.
    channels
        Names or numbers of the channels; None for all.
    sample
        Number of crops to draw, at most.
    seed
        Seed of the sample: the same seed gives the same numbers.

    Returns
    -------
    low, high : (c,) float64
        Percentiles, in units of the stored pixels, as `normalise` takes them.

    Raises
    ------
    InputError
        There is no such channel, the percentiles are invalid, or the store has no crops.
    """
    numbers = channel_numbers(crops, channels)
    least, most = percentiles
    if not 0 <= least < most <= 100:
        raise InputError(f"percentiles = {percentiles}: two that rise, from 0 to 100")
    if sample < 1:
        raise InputError(f"sample = {sample}: at least 1 crop")
    if len(crops) == 0:
        raise InputError(f"{crops.path}: no crops in it to take percentiles of")
    drawn = _draw(crops, sample, np.random.default_rng(seed))
    inside = _inside(crops, drawn)
    size = crops.image.chunks[1]
    found = np.empty((2, len(numbers)))
    for group in sorted({number // size for number in numbers}):
        pixels = np.moveaxis(_sampled(crops.image, drawn, group), 1, 0)
        for target, number in enumerate(numbers):
            if number // size == group:
                found[:, target] = _percentiles(pixels[number % size][inside], percentiles)
    return found[0], found[1]


def _percentiles(values: np.ndarray, percentiles: tuple[float, float]) -> np.ndarray:
    wide = values.dtype == np.float16 or values.dtype.kind == "b"
    if values.size == 0:
        return np.zeros(2)
    return np.percentile(values.astype(np.float32) if wide else values, percentiles)


def channel_numbers(crops: Crops, channels: Sequence[int] | Sequence[str] | None) -> list[int]:
    """Numbers of channels given by name or number, in the order given; all for None.

    Raises
    ------
    InputError
        There is no such channel, or none is given.
    """
    if channels is None:
        return list(range(len(crops.channels)))
    if isinstance(channels, str) or len(channels) == 0:
        raise InputError(f"channels = {channels!r}: a list of at least one channel, or None")
    known: dict[Any, int] = {name: number for number, name in enumerate(crops.channels)}
    known |= {number: number for number in range(len(crops.channels))}
    for channel in channels:
        if channel not in known:
            raise InputError(
                f"channels: {crops.path} has no channel {channel!r}; "
                f"it has {', '.join(crops.channels)}"
            )
    return [known[channel] for channel in channels]


def _draw(crops: Crops, sample: int, rng: np.random.Generator) -> list[tuple[int, np.ndarray]]:
    """Draw chunks along the instances, and rows of each."""
    size = crops.image.chunks[0]
    blocks = -(-len(crops) // size)
    chosen = np.sort(rng.permutation(blocks)[:_SAMPLED_CHUNKS])
    drawn = []
    for done, block in enumerate(chosen.tolist()):
        rows = min(size, len(crops) - block * size)
        wanted = -(-sample // (len(chosen) - done))
        taken = np.sort(rng.permutation(rows)[:wanted])
        sample -= len(taken)
        drawn.append((block, taken))
    return drawn


def _sampled(array: Any, drawn: list[tuple[int, np.ndarray]], group: int) -> np.ndarray:
    """Read the crops that were drawn, (n, channels of a group, z, y, x)."""
    files = ChunkFiles(array, strict=True)
    chunk = np.empty(array.chunks, np.dtype(array.dtype).newbyteorder("="))
    found = []
    for block, rows in drawn:
        files.read((block, group, 0, 0, 0), chunk)
        found.append(chunk[rows])
    return np.concatenate(found)


def _inside(crops: Crops, drawn: list[tuple[int, np.ndarray]]) -> np.ndarray:
    """Pixels of the instances in the crops that were drawn, (n, z, y, x) bool."""
    if crops.mask is not None:
        return _sampled(crops.mask, drawn, 0)[:, 0] != 0
    groups = range(-(-crops.image.shape[1] // crops.image.chunks[1]))
    shape = (sum(len(rows) for _, rows in drawn), *crops.image.shape[2:])
    if not crops.attributes.get("remove_background", False):
        return np.ones(shape, bool)
    found = np.zeros(shape, bool)
    for group in groups:
        found |= (_sampled(crops.image, drawn, group) != 0).any(axis=1)
    return found
