"""Convex hulls of volumes: Qhull finds their facets, and integers say what lies inside.

The corners of octahedra around pixels are integers in half pixels, and so are the planes through
three of them: which pixels lie in a hull is exact, in whatever order Qhull met the corners.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy.spatial import ConvexHull, QhullError

_STEPS = np.array([(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)])


def deep_hulls(
    begin: np.ndarray, z: np.ndarray, y: np.ndarray, x: np.ndarray, length: np.ndarray
) -> np.ndarray:
    """Pixels of each instance's convex hull, and 4 × the square of its diameter.

    A pixel is the octahedron of the middles of its sides, as in
    `skimage.morphology.convex_hull_image`; see `reference_shapes.hulls`.

    Returns
    -------
    (instances, 2) int64
    """
    found = np.zeros((len(begin) - 1, 2), np.int64)
    runs = np.stack([z, y, x], axis=1).astype(np.int64)
    last = runs.copy()
    last[:, 2] += length - 1
    for i, (first, end) in enumerate(pairwise(begin)):
        ends = np.concatenate([runs[first:end], last[first:end]])
        corner = ends.min(axis=0)
        planes = _facets(_outermost(ends - corner))
        found[i, 0], inside = _inside(planes, ends.max(axis=0) - corner + 1)
        corners = _diamonds(_outermost(inside))
        corners = corners[ConvexHull(corners).vertices]
        far = corners[:, np.newaxis] - corners
        found[i, 1] = (far**2).sum(axis=-1).max()
    return found


def _outermost(pixels: np.ndarray) -> np.ndarray:
    """Return the corners of the hull of pixels; all pixels if they lie in a plane."""
    if len(pixels) < 5:
        return pixels
    try:
        return pixels[ConvexHull(pixels).vertices]
    except QhullError:
        return pixels


def _diamonds(pixels: np.ndarray) -> np.ndarray:
    """Corners of the octahedra around pixels, in half pixels, each once."""
    corners = (2 * pixels[:, np.newaxis] + _STEPS).reshape(-1, 3)
    return np.unique(corners, axis=0)


def _facets(pixels: np.ndarray) -> np.ndarray:
    """Planes (normal, offset) around the octahedra of pixels: normal · p <= offset inside."""
    corners = _diamonds(pixels)
    hull = ConvexHull(corners)
    a, b, c = (corners[hull.simplices[:, k]] for k in range(3))
    normal = np.cross(b - a, c - a)
    offset = (normal * a).sum(axis=1)
    # The mean of all corners lies inside, far from every plane.
    sign = np.where(normal @ corners.mean(axis=0) <= offset, 1, -1)
    planes = np.concatenate([normal, offset[:, np.newaxis]], axis=1) * sign[:, np.newaxis]
    return np.unique(planes[np.any(normal != 0, axis=1)], axis=0)


def _inside(planes: np.ndarray, size: np.ndarray) -> tuple[int, np.ndarray]:
    """Number of a box's pixels whose centres are not beyond any plane, and the ends of its rows."""
    z, y = (axis.ravel() for axis in np.mgrid[: size[0], : size[1]])
    low, high = np.zeros(len(z), np.int64), np.full(len(z), size[2] - 1)
    for across_z, across_y, across_x, offset in planes:
        # What is left for the x of each row: across_x * 2 x <= left.
        left = offset - 2 * (across_z * z + across_y * y)
        if across_x > 0:
            high = np.minimum(high, left // (2 * across_x))
        elif across_x < 0:
            low = np.maximum(low, -(left // (-2 * across_x)))
        else:
            high = np.where(left < 0, -1, high)
    there = low <= high
    rows = z[there], y[there]
    ends = [np.stack([*rows, x[there]], axis=1) for x in (low, high)]
    return int((high - low + 1)[there].sum()), np.unique(np.concatenate(ends), axis=0)
