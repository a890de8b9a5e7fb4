"""Labels made of other labels: as users make them."""

from __future__ import annotations

import math
from functools import partial
from numbers import Real
from typing import Any

import numpy as np

from harpy_core.errors import InputError
from harpy_core.kernels.layout import FARTHEST
from harpy_core.raster.grown import GrownLabels, LabelsWithout, grown
from harpy_core.raster.raster import as_labels, unwrapped
from harpy_core.raster.reading import is_dask, reader_of


def expand_labels(labels: Any, distance: float) -> Any:
    """Labels that grow into the background, without running into each other.

    They are those of `skimage.segmentation.expand_labels` on the whole image, made tile by tile as
    they are read. A pixel that is as far from several instances belongs to the smallest label.

    Parameters
    ----------
    labels
        (y, x) or (z, y, x), as `harpy_core.aggregate_stats` takes them; 0 is background.
    distance
        Longest distance, in pixels, between the centres of a pixel and of one of the instance.

    Returns
    -------
    Labels that every job takes; of a Dask array, a Dask array.

    Raises
    ------
    InputError
        The distance is not a number from 0 to 10,000, or the labels are no whole numbers.
    """
    return _grown(labels, None, _checked("distance", distance))


def label_rings(labels: Any, inner: float, outer: float) -> Any:
    """Rings around instances: the pixels that are farther than `inner` and no farther than `outer`.

    A ring has the label of its instance, and no pixel of another; a pixel that is as far from
    several belongs to the smallest label. Its statistics are those of the local background.

    Parameters
    ----------
    labels
        See `expand_labels`.
    inner, outer
        Distances in pixels, between the centres of a pixel and of the nearest of the instance.

    Returns
    -------
    Labels that every job takes; of a Dask array, a Dask array.

    Raises
    ------
    InputError
        The distances are not numbers from 0 to 10,000, the outer one is not the larger, or the
        labels are no whole numbers.
    """
    low, high = _checked("inner", inner), _checked("outer", outer)
    if low >= high:
        raise InputError(f"inner = {inner:g}, outer = {outer:g}: a ring's outer distance is larger")
    return _grown(labels, low, high)


def subtract_labels(labels: Any, others: Any) -> Any:
    """Labels without the pixels that other labels have, such as cytoplasm: cells without nuclei.

    Parameters
    ----------
    labels
        See `expand_labels`.
    others
        Labels, or a mask, of the same shape: which pixels have one counts, not which they have.

    Returns
    -------
    Labels that every job takes; a Dask array if one of them is.

    Raises
    ------
    InputError
        The shapes differ, or the labels are no whole numbers.
    """
    labels, others = as_labels(labels), unwrapped(others, "labels")
    if tuple(labels.shape) != tuple(others.shape):
        raise InputError(
            f"labels {tuple(labels.shape)} and others {tuple(others.shape)} do not cover the same "
            "pixels: give labels of the same image"
        )
    if is_dask(labels) or is_dask(others):
        import dask.array as da

        one, other = (a if is_dask(a) else da.from_array(a) for a in (labels, others))
        return da.where(other == 0, one, one.dtype.type(0))
    return LabelsWithout([labels, others], [reader_of(one, 3) for one in (labels, others)])


def _checked(name: str, distance: Any) -> float:
    if not isinstance(distance, Real) or not 0 <= float(distance) <= FARTHEST:
        raise InputError(
            f"{name} = {distance}: a distance is a number from 0 to {FARTHEST:,}, in pixels"
        )
    return float(distance)


def _grown(labels: Any, inner: float | None, outer: float) -> Any:
    labels = as_labels(labels)
    if not is_dask(labels):
        return GrownLabels(labels, reader_of(labels, 3), inner, outer)
    grow = partial(_grown_block, inner=inner, outer=outer)
    # Dask takes no depth beyond the array, whose pixels are no farther from each other anyway.
    depth = {axis: min(math.floor(outer), n - 1) for axis, n in enumerate(labels.shape)}
    return labels.map_overlap(
        grow, depth=depth, boundary="none", dtype=labels.dtype, meta=labels._meta
    )


def _grown_block(block: np.ndarray, inner: float | None, outer: float) -> np.ndarray:
    whole = block if block.ndim == 3 else block[np.newaxis]
    return grown(whole, inner, outer).reshape(block.shape)
