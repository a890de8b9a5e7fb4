"""What shapes are finished from: label partials, in the sides of pixels or in a unit of length."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harpy_core.kernels import corners
from harpy_core.statistics import wide

PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
"""Axes (z, y, x) of the products that `moments` sums, two words each."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What the label pass found of some instances.

    Attributes
    ----------
    totals : (instances, 4) int64
        Pixels, then the sums of z, y and x over them.
    bounds : (instances, 6) int64
        Smallest z, y and x, then the largest plus one.
    words : (instances, words) each
        Words of the other label partials by name.
    spacing
        Side of a pixel along each axis of the labels: (z, ) y, x.
    """

    totals: np.ndarray
    bounds: np.ndarray
    words: Mapping[str, np.ndarray]
    spacing: tuple[float, ...]

    @property
    def dimensions(self) -> int:
        """Number of axes of the labels."""
        return len(self.spacing)

    @property
    def pixel(self) -> float:
        """Area, or volume, of a pixel."""
        return float(np.prod(self.spacing))


@dataclass(frozen=True, slots=True)
class Size:
    """Size of each instance.

    Attributes
    ----------
    area, area_bbox : (instances,) float64
        Area of the instance and of its bounding box, in squares of the unit; of volumes in cubes.
    box : (instances, 2 × axes) float64
        Smallest index along each axis, then the largest plus one.
    diameter : (instances,) float64
        Diameter of a disc, or a ball, of the same area.
    """

    area: np.ndarray
    area_bbox: np.ndarray
    box: np.ndarray
    diameter: np.ndarray

    @classmethod
    def of(cls, found: Measured) -> Size:
        """Finish the size."""
        d = found.dimensions
        low, high = found.bounds[:, 3 - d : 3], found.bounds[:, 6 - d :]
        area = found.totals[:, 0] * found.pixel
        box = (high - low).prod(axis=1) * found.pixel
        diameter = (2 * d * area / np.pi) ** (1 / d)
        return cls(area, box, np.concatenate([low, high], axis=1).astype(np.float64), diameter)


@dataclass(frozen=True, slots=True)
class Inertia:
    """Second moments of each instance: its inertia tensor as a body of points.

    Attributes
    ----------
    tensor : (instances, axes, axes) float64
        Diagonal: the variances along the other axes together; elsewhere: minus the covariance.
    """

    tensor: np.ndarray

    @classmethod
    def of(cls, found: Measured) -> Inertia:
        """Finish the tensor from integers: each of its elements is rounded once or twice."""
        n = found.totals[:, 0]
        d = found.dimensions
        covariance = np.zeros((len(n), 3, 3))
        words = found.words["moments"]
        for place, (i, j) in enumerate(PAIRS):
            sums = wide.multiply_pair(wide.pair(words, 2 * place), n.astype(np.uint64))
            means = wide.multiply(*(found.totals[:, 1 + a].astype(np.uint64) for a in (i, j)))
            central = wide.to_float(wide.subtract(sums, means)) / n.astype(np.float64) ** 2
            covariance[:, i, j] = covariance[:, j, i] = central
        sides = np.asarray(found.spacing)
        own = covariance[:, 3 - d :, 3 - d :] * sides * sides[:, np.newaxis]
        spread = np.trace(own, axis1=1, axis2=2)
        return cls(np.eye(d) * spread[:, np.newaxis, np.newaxis] - own)

    @property
    def eigenvalues(self) -> np.ndarray:
        """Eigenvalues of the tensor, the largest first, (instances, axes)."""
        return np.clip(np.linalg.eigvalsh(self.tensor)[:, ::-1], 0, None)

    @property
    def axes(self) -> np.ndarray:
        """Longest and shortest axis of the ellipse, or ellipsoid, of the same moments."""
        values = self.eigenvalues
        if values.shape[1] == 2:
            return 4 * np.sqrt(values)
        first, second, third = values.T
        long, short = first + second - third, second + third - first
        return np.sqrt(10 * np.clip(np.stack([long, short], axis=1), 0, None))

    @property
    def eccentricity(self) -> np.ndarray:
        """Eccentricity of the ellipse; 0 for a single pixel."""
        large, small = self.eigenvalues.T
        return np.sqrt(1 - np.divide(small, large, out=np.ones_like(large), where=large > 0))

    @property
    def orientation(self) -> np.ndarray:
        """Angle between the y axis and the longest axis; -pi/4 where both are equally long."""
        along_x, product, along_y = self.tensor[:, 0, 0], self.tensor[:, 0, 1], self.tensor[:, 1, 1]
        angle = 0.5 * np.arctan2(-2 * product, along_y - along_x)
        even = np.where(product < 0, np.pi / 4, -np.pi / 4)
        return np.where(along_x == along_y, even, angle)


@dataclass(frozen=True, slots=True)
class Borders:
    """Border of each instance, from integer counts.

    Attributes
    ----------
    words : (instances, `corners.WORDS`) int64
        Counts.
    spacing
        Side of a pixel along each axis.
    """

    words: np.ndarray
    spacing: tuple[float, ...]

    @classmethod
    def of(cls, found: Measured) -> Borders:
        """Finish the border."""
        return cls(found.words["borders"], found.spacing)

    @property
    def perimeter(self) -> np.ndarray:
        """Length of the line through the centres of border pixels."""
        root = np.sqrt(2.0)
        straight, slanted, bent = (
            self.words[:, word] for word in (corners.STRAIGHT, corners.SLANTED, corners.BENT)
        )
        return (straight + slanted * root + bent * (1 + root) / 2) * self.spacing[0]

    @property
    def crofton(self) -> np.ndarray:
        """Perimeter: pi times the mean width, as lines in 4 directions cross it."""
        x, y, yx = (self._crossings(name) for name in ("x", "y", "yx"))
        return np.pi / 4 * (x + y + yx / np.sqrt(2.0)) * self.spacing[0]

    @property
    def surface(self) -> np.ndarray:
        """Surface: 4 times the mean projected area, as lines in 13 directions cross it."""
        sides = np.asarray(self.spacing)
        steps = np.asarray(corners.KIND_OF_LINE)
        weight = weights_of_lines(tuple(sides)) * sides.prod()
        weight /= np.linalg.norm(steps * sides, axis=1)
        crossings = np.stack([self._crossings(name) for name in corners.AXES_OF_LINES])
        # Summed in a fixed order: a product of matrices may take any.
        return np.asarray(4 * sum(w * c for w, c in zip(weight, crossings, strict=True)))

    @property
    def euler(self) -> np.ndarray:
        """Euler number."""
        return self.words[:, corners.EULER].astype(np.float64)

    def _crossings(self, name: str) -> np.ndarray:
        place = corners.CROSSINGS.start + corners.AXES_OF_LINES.index(name)
        return self.words[:, place].astype(np.float64)


@functools.cache
def weights_of_lines(spacing: tuple[float, ...]) -> np.ndarray:
    """Share of each kind of line, for one of its lines, among all directions; (7,) float64.

    It is the share of the sphere that is nearer to the line than to any other (Legland et al. 2007,
    Image Anal Stereol 26:83-92).
    """
    from scipy.spatial import SphericalVoronoi

    steps = np.array([*corners.SPACE, *(tuple(-n for n in step) for step in corners.SPACE)])
    directions = steps * np.asarray(spacing)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    areas = SphericalVoronoi(directions).calculate_areas() / (4 * np.pi)
    kinds = [corners.kind_of(step) for step in corners.SPACE]
    return np.array([2 * areas[kinds.index(kind)] for kind in range(len(corners.AXES_OF_LINES))])


@dataclass(frozen=True, slots=True)
class Hull:
    """Convex hull of each instance.

    Attributes
    ----------
    area, diameter : (instances,) float64
        Area of its pixels, and longest distance between points of their outline.
    """

    area: np.ndarray
    diameter: np.ndarray

    @classmethod
    def of(cls, found: Measured) -> Hull:
        """Finish the hull."""
        pixels, squares = found.words["hull"].T
        return cls(pixels * found.pixel, np.sqrt(squares) / 2 * found.spacing[0])


@dataclass(frozen=True, slots=True)
class Filled:
    """Instances without their holes.

    Attributes
    ----------
    area : (instances,) float64
        Area.
    """

    area: np.ndarray

    @classmethod
    def of(cls, found: Measured) -> Filled:
        """Finish the area."""
        return cls(found.words["holes"][:, 0] * found.pixel)


FINISHED: dict[str, Callable[[Measured], Any]] = {
    "size": Size.of,
    "moments": Inertia.of,
    "borders": Borders.of,
    "hull": Hull.of,
    "holes": Filled.of,
}
"""What each label partial is finished into."""


def shifted(moments: np.ndarray, totals: np.ndarray, origin: Sequence[int]) -> np.ndarray:
    """Words of `moments` in the image's coordinates, from sums in a tile's.

    Parameters
    ----------
    moments : (instances, 6) uint64
        Sums over products of two coordinates, as kernels make them.
    totals : (instances, 4) int64
        Pixels, and sums of the coordinates, in the image's.
    origin
        First pixel of the tile.
    """
    words = np.zeros((len(moments), 2 * len(PAIRS)), np.uint64)
    n = totals[:, 0].astype(np.uint64)
    o = [np.uint64(place) for place in origin]
    # Sums in the image's coordinates, each at least as large as n times the origin.
    sums = [totals[:, 1 + axis].astype(np.uint64) for axis in range(3)]
    for place, (i, j) in enumerate(PAIRS):
        own = sums[i] - n * o[i]
        total: wide.Wide = (moments[:, place], np.zeros_like(n))
        total = wide.add(total, wide.multiply(sums[j], np.full_like(n, o[i])))
        total = wide.add(total, wide.multiply(own, np.full_like(n, o[j])))
        words[:, 2 * place], words[:, 2 * place + 1] = total
    return words


def merge_moments(into: np.ndarray, other: np.ndarray) -> None:
    """Add the sums over other pixels of the same instances."""
    with np.errstate(over="ignore"):
        for place in range(len(PAIRS)):
            wide.add_pair(into, other, 2 * place)
