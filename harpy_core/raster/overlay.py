"""Labels laid on their image: where the metadata place them, or where a user says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harpy_core.errors import InputError
from harpy_core.raster import axes as axes_names
from harpy_core.raster.formats.format import Element
from harpy_core.raster.placed import PlacedLabels, is_upright
from harpy_core.raster.placement import difference, relation
from harpy_core.raster.polygons import PolygonLabels
from harpy_core.raster.raster import as_labels
from harpy_core.raster.reading import is_dask, lifted, reader_of

Sides = float | Sequence[float]
"""One number for all axes, or one for each of (z, ) y and x."""

_RELATIVE = 1e-6
_PIXELS = 1e-3


@dataclass(frozen=True, slots=True)
class Laid:
    """What a user says of the place of labels.

    Attributes
    ----------
    scale
        Pixels of the image along a pixel of the labels; None: as the metadata say.
    translation
        Pixels of the image before the first pixel of the labels.
    nearest
        Whether pixels of the image may take the label at their centre where pixels of the labels
        are not whole ones of the image.
    keys
        Beginning of the names of the keys that say so: empty for those of a layer, which has no key
        for `nearest`.
    """

    scale: Sides | None = None
    translation: Sides | None = None
    nearest: bool = False
    keys: str = "labels_"

    @property
    def given(self) -> bool:
        """Whether the place is given, whatever the metadata say."""
        return self.scale is not None or self.translation is not None

    @property
    def facts(self) -> list[Any]:
        """What of it changes labels; empty where nothing is said."""
        known = [self.scale, self.translation, self.nearest]
        return known if self.given or self.nearest else []

    @property
    def remedy(self) -> str:
        """What to do where the metadata place labels elsewhere."""
        return f"say where they lie with {self.keys}scale and {self.keys}translation"

    def matrix(self, axes: int) -> np.ndarray:
        """Return the matrix from the labels' places z, y and x to those in the image."""
        named = f"{self.keys}scale"
        scale = _by_axis(1.0 if self.scale is None else self.scale, axes, named, 1.0)
        moved = 0.0 if self.translation is None else self.translation
        shift = _by_axis(moved, axes, f"{self.keys}translation", 0.0)
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise InputError(f"{named} = {self.scale}: give positive numbers")
        if not np.isfinite(shift).all():
            raise InputError(f"{self.keys}translation = {self.translation}: give numbers")
        matrix = np.diag([*scale, 1.0])
        matrix[:3, 3] = shift
        return matrix


def _by_axis(value: Sides, axes: int, what: str, otherwise: float) -> np.ndarray:
    if isinstance(value, int | float | np.number):
        return np.array([otherwise] * (3 - axes) + [float(value)] * axes, np.float64)
    if len(value) != axes:
        raise InputError(f"{what} = {list(value)}: give one number, or {axes}, one for each axis")
    return np.array([otherwise] * (3 - axes) + [*value], np.float64)


def place_labels(
    labels: Any,
    shape: Sequence[int],
    scale: Sides = 1.0,
    translation: Sides = 0.0,
    *,
    nearest: bool = False,
) -> Any:
    """Labels of another resolution, or of a part of an image, on the image's pixels.

    Each pixel of the image has the label at its centre, and 0 beyond the labels. Nothing is stored:
    tiles are made as they are read.

    Parameters
    ----------
    labels
        (y, x) or (z, y, x), as `harpy_core.aggregate_stats` takes them, but no Dask array.
    shape
        Pixels of the image along the labels' axes.
    scale
        Pixels of the image along one of the labels: 2 for labels of half the resolution. One number
        for all axes, or one for each of (z, ) y and x.
    translation
        Pixels of the image before the first pixel of the labels, likewise.
    nearest
        Whether numbers that are not whole are allowed, and scales below 1.

    Returns
    -------
    PlacedLabels
        Labels that every job takes.

    Raises
    ------
    InputError
        A scale is not positive, or numbers are not whole and `nearest` is not asked for; or the
        labels are no whole numbers, a Dask array, or polygons, which have a place of their own.
    """
    labels = as_labels(labels)
    if is_dask(labels):
        raise InputError("labels: Dask arrays are not placed; use dask.array.repeat and pad")
    if isinstance(labels, PolygonLabels):
        raise InputError("labels: give the place of polygons to polygon_labels or read_polygons")
    if len(shape) != labels.ndim:
        raise InputError(f"shape = {tuple(shape)}: give {labels.ndim} numbers, as labels have axes")
    matrix = Laid(scale, translation, keys="").matrix(labels.ndim)
    if not nearest and _exact(matrix) is None:
        raise InputError(
            f"scale = {scale}, translation = {translation}: pixels of the labels are not whole "
            "ones of the image; give whole numbers, or nearest=True"
        )
    return PlacedLabels(labels, reader_of(labels, 3), shape, matrix)


def laid_on(uri: str, image: Element, labels: Element, said: Laid) -> Any:
    """Return labels as an array on the pixels of an image.

    What the metadata say is followed if it makes whole pixels of the image of each pixel of the
    labels, all of them inside; what a user says, in any case.

    Raises
    ------
    InputError
        Labels lie elsewhere, or it is not known where.
    """
    array = labels.array
    shape = lifted(tuple(image.array.shape[1:]), 3, 1)
    if said.given:
        matrix = said.matrix(array.ndim)
        told = f"scale {said.scale}, translation {said.translation}"
        remedy = "give whole numbers of at least 1"
        remedy += f", or {said.keys}nearest: true" if said.keys else ""
    elif image.placed is None or labels.placed is None:
        _refuse_coarser(uri, labels, shape, said)
        return array
    else:
        flat = image.array.ndim == 3 or array.ndim == 2
        axes = ("y", "x") if flat else axes_names.SPATIAL
        moved = difference(image.placed, labels.placed, axes)
        if moved is None:
            return array
        told, remedy = moved, said.remedy
        found = relation(image.placed, labels.placed, axes)
        if found is None:
            raise _elsewhere(uri, image, labels, told, remedy)
        matrix = found
    if isinstance(array, PolygonLabels):
        return array.moved(matrix)
    exact = _exact(matrix)
    whole = exact is not None and (said.given or _inside(exact, array.shape, shape))
    if not (whole or said.nearest):
        raise _elsewhere(uri, image, labels, told, remedy)
    over = shape if array.ndim == 3 else shape[1:]
    return PlacedLabels(array, reader_of(array, 3), over, matrix if exact is None else exact)


def _refuse_coarser(uri: str, labels: Element, image: tuple[int, ...], said: Laid) -> None:
    """Refuse labels of a whole part of the image's pixels along y and x: it is not said where."""
    own = lifted(tuple(labels.array.shape), 3, 1)
    factor = image[1] // max(own[1], 1)
    if factor > 1 and own[:1] == image[:1] and image[1:] == tuple(factor * n for n in own[1:]):
        told = [1, factor, factor] if labels.array.ndim == 3 else factor
        raise InputError(
            f"{uri}: labels {labels.name!r} do not cover the same pixels as the image, which has "
            f"{factor} times as many along y and x: if each of theirs covers {factor} x {factor} "
            f"of the image's, give {said.keys}scale: {told}"
        )


def _elsewhere(uri: str, image: Element, labels: Element, told: str, remedy: str) -> InputError:
    called = f" {image.name!r}" if image.name else ""
    return InputError(
        f"{uri}: labels {labels.name!r} do not lie on the image{called}: {told}; {remedy}, or "
        "resample the labels onto the image's pixels"
    )


def _exact(matrix: np.ndarray) -> np.ndarray | None:
    """Return a matrix in whole numbers, if each pixel of the labels is whole ones of the image.

    Those who take a pixel's centre for its place shift labels of an even scale by half a pixel of
    theirs less half of one of the image; that is no shift. Of an odd scale it is not known whether
    such a shift is one.
    """
    if not is_upright(matrix):
        return None
    scale, shift = np.diagonal(matrix)[:3], matrix[:3, 3].copy()
    factor = np.round(scale)
    if (factor < 1).any() or (np.abs(scale / np.maximum(factor, 1) - 1) > _RELATIVE).any():
        return None
    between = (factor - 1) / 2
    centred = (factor % 2 == 0) & (np.abs(shift - between - np.round(shift - between)) <= _PIXELS)
    shift[centred] -= between[centred]
    if (np.abs(shift - np.round(shift)) > _PIXELS).any():
        return None
    whole = np.diag([*factor, 1.0])
    whole[:3, 3] = np.round(shift)
    return whole


def _inside(matrix: np.ndarray, labels: Sequence[int], image: Sequence[int]) -> bool:
    """Whether labels cover pixels of an image alone, but for less than one pixel of theirs.

    Also whether no odd scale leaves open what a shift means.
    """
    scale, shift = np.diagonal(matrix)[:3], matrix[:3, 3]
    ends = shift + scale * np.array(lifted(tuple(labels), 3, 1))
    unclear = (scale > 1) & (scale % 2 == 1) & (shift == (scale - 1) / 2)
    return bool((shift >= 0).all() and (ends - image < scale).all() and not unclear.any())
