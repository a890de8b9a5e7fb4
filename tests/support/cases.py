"""Generated images with labels, in every form that the jobs take."""

from __future__ import annotations

import itertools
import os
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import strategies as st
from scipy import ndimage

from harpy_core.raster.chunks import ChunkFiles
from harpy_core.running import schedule
from harpy_core.tiles import grid

NARROW = ("u1", "i1", "u2", "i2")
WIDE = ("u4", "i4", "u8", "i8")
REAL = ("f2", "f4", "f8")
PIXELS = ("b1", *NARROW, *WIDE, *REAL)

FIRST_LABEL = {
    "i4": (1, 2**31 - 70),
    "u1": (1, 180),
    "u2": (1, 60_000),
    "u4": (7, 2**32 - 70),
    "i8": (1, 2**63 - 70),
    "u8": (1, 2**63, 2**64 - 70),
}
"""Label types, and what their labels count up from: with gaps, up to the largest there is."""


@dataclass(frozen=True)
class Case:
    """An image with labels, and how both are chunked."""

    image: np.ndarray
    labels: np.ndarray
    image_chunks: tuple[int, ...]
    label_chunks: tuple[int, ...]
    tile: int


def pixels(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Pixels over the whole range of an integer type, or of either sign and many sizes."""
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return rng.random(shape) < 0.5
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        return rng.integers(limits.min, limits.max, shape, kind, endpoint=True)
    return (rng.normal(size=shape) * 10.0 ** rng.integers(-2, 3)).astype(kind)


def segmentation(
    rng: np.random.Generator, shape: tuple[int, ...], form: str, dtype: str, first: int
) -> np.ndarray:
    """Labels (z, y, x) or (y, x) of some form; at most 64 instances."""
    if form == "none":
        dense = np.zeros(shape, int)
    elif form == "one":
        dense = np.ones(shape, int)
    elif form == "scattered":
        dense = rng.integers(0, 5, shape)
    else:
        dense = ndimage.label(ndimage.gaussian_filter(rng.random(shape), 1.0) > 0.5)[0]
        dense = np.where(dense > 20, 0, dense)
    number = dense.max(initial=0)
    gaps = np.sort(rng.permutation(64)[:number]).tolist()
    table = np.array([0, *(first + gap for gap in gaps)], dtype)
    return table[dense]


@st.composite
def cases(draw: st.DrawFn, dtypes: tuple[str, ...] = PIXELS, depths: bool = True) -> Case:
    """Small images of any shape, with any labels, in any chunks."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    plane = draw(st.tuples(st.integers(1, 24), st.integers(1, 24)))
    depth = draw(st.sampled_from([(), (), (1,), (3,)])) if depths else ()
    channels = draw(st.integers(1, 4))
    dtype = draw(st.sampled_from(sorted(FIRST_LABEL)))
    form = draw(st.sampled_from(["blobs", "blobs", "scattered", "one", "none"]))
    first = draw(st.sampled_from(FIRST_LABEL[dtype]))
    labels = segmentation(rng, (*depth, *plane), form, dtype, first)
    image = pixels(rng, (channels, *labels.shape), draw(st.sampled_from(dtypes)))
    chunks = [draw(_chunks(a.shape)) for a in (image, labels)]
    return Case(image, labels, *chunks, draw(st.sampled_from([1, 30, 150, grid.TILE_PIXELS])))


@st.composite
def _chunks(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Chunks of any size, of one pixel now and then, never so many that a test takes long."""
    chunks = [draw(st.sampled_from([1, 2, 5, n, n + 3])) for n in shape]
    for axis in itertools.cycle(range(len(shape))):
        if np.prod([-(-n // c) for n, c in zip(shape, chunks, strict=True)]) <= 60:
            return tuple(chunks)
        chunks[axis] = min(2 * chunks[axis], shape[axis] + 3)
    raise AssertionError


FORMS = ("numpy", "zarr", "zarr2", "memory", "dask", "xarray")


WHOLE = {"write_empty_chunks": True}
"""Options with which Zarr stores every chunk."""


def as_form(
    form: str,
    array: np.ndarray,
    chunks: tuple[int, ...],
    folder: str | os.PathLike[str],
    kind: str = "image",
) -> Any:
    """The array as one of the kinds that users have; of xarray, with its axes the other way.

    Chunks of background are stored: where they are not, the jobs cannot tell them from lost ones.
    """
    options: dict[str, Any] = {"data": array, "chunks": chunks, "config": WHOLE}
    if form == "numpy":
        return array
    if form == "memory":
        return zarr.create_array({}, **options)
    if form in ("zarr", "zarr2"):
        version = 2 if form == "zarr2" else 3
        place = Path(folder) / f"{form}-{len(os.listdir(folder))}"
        return zarr.create_array(place, **options, zarr_format=version)
    lazy = da.from_array(array, chunks)
    if form == "xarray":
        axes = "czyx" if kind == "image" else "zyx"
        if array.ndim < len(axes):
            axes = axes.replace("z", "")
        return xr.DataArray(lazy.T, dims=[*reversed(axes)])
    return lazy


@contextmanager
def tiles_of(pixels: int) -> Iterator[None]:
    """Make tiles this small, so that a small image has many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid.coarsened, "__defaults__", (pixels,))
        yield


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Run on this many threads, whatever the machine has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "threads_of", lambda client: number)
        yield


def peak_of(job: Callable[[], Any]) -> int:
    """Most bytes that a job held at a time, on one thread."""
    tracemalloc.start()
    try:
        with threads(1):
            job()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@contextmanager
def counted_reads(array: zarr.Array) -> Iterator[Counter[tuple[int, ...]]]:
    """Count how often each chunk of an array is decoded."""
    reads: Counter[tuple[int, ...]] = Counter()
    lock = threading.Lock()
    read = ChunkFiles.read

    def counting(self: ChunkFiles, index: tuple[int, ...], out: np.ndarray) -> bool:
        if self._array == array:
            with lock:
                reads[index] += 1
        return read(self, index, out)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ChunkFiles, "read", counting)
        yield reads
