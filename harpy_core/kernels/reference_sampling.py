"""Interpolation of the pixels of a window, in plain NumPy: bilinear, in float64, means of samples.

Pixel (i, j) of a crop of n x m pixels lies (i - n // 2, j - m // 2) of its pixels from the pixel of
the image that holds the instance's centroid (rounded half to even, as for any window), turned by
the instance's angle, times the distance of neighbouring pixels. Where that is more than a pixel of
the image, the pixel is the mean of k x k samples that lie evenly in its square, k the distance
rounded up; each sample is interpolated linearly from the four pixels around it.
"""

from __future__ import annotations

from itertools import product

import numpy as np

Sides = tuple[int, int]


def samples(
    size: Sides,
    span: Sides,
    step: tuple[float, float],
    inside: int,
    turn: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Place the samples of a crop in the window that it is made of.

    Parameters
    ----------
    size, span
        Rows and columns of the crop, and of the window.
    step
        Distance of neighbouring pixels of the crop along y and x, in pixels of the window.
    inside
        Number of samples in a pixel along each axis.
    turn
        Sine and cosine of the angle from x to the direction, with y downwards, that is to lie along
        x.

    Returns
    -------
    nearest : (pixels,) int64
        Offset in the window of the pixel nearest to each pixel of the crop.
    pixel : (terms, pixels) int64
        Offsets of the pixels that each is a mean of.
    weight : (terms, pixels) float64
        Their weights. A term that has none is left out: it would make NaN of a pixel beside one.
    """
    height, width = span
    y, x = _places(size, span, step, turn, 0.0, 0.0)
    nearest = np.clip(np.floor(y + 0.5), 0, height - 1).astype(np.int64) * width
    nearest += np.clip(np.floor(x + 0.5), 0, width - 1).astype(np.int64)
    pixels, weights = [], []
    inner = (np.arange(inside) + 0.5) / inside - 0.5
    for down, right in product(inner.tolist(), repeat=2):
        places = _places(size, span, step, turn, down, right)
        corners = [_around(along, side) for along, side in zip(places, span, strict=True)]
        for (row, of_row), (column, of_column) in product(*corners):
            share = of_row * of_column
            if share.any():
                pixels.append(row * width + column)
                weights.append(share / inside**2)
    return nearest, np.stack(pixels), np.stack(weights)


def interpolate(planes: np.ndarray, pixel: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Interpolate planes of a window, (planes, pixels), in float64; see `samples`."""
    found = np.zeros((len(planes), pixel.shape[1]))
    # Term by term, in a fixed order: a product of matrices may take any.
    with np.errstate(invalid="ignore"):
        for of_term, share in zip(pixel, weight, strict=True):
            found += planes[:, of_term] * share
    return found


def _places(
    size: Sides,
    span: Sides,
    step: tuple[float, float],
    turn: tuple[float, float],
    down: float,
    right: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Places of samples in the window along y and x, (pixels,) each, from its first pixel's centre.

    The samples lie `down` and `right` of the crop's pixels, as parts of these.
    """
    rows, columns = size
    y = (np.arange(rows) - rows // 2 + down)[:, np.newaxis]
    x = np.arange(columns) - columns // 2 + right
    sine, cosine = turn
    turned = x * sine + y * cosine, x * cosine - y * sine
    along_y, along_x = (
        (part * far + side // 2).ravel() for part, far, side in zip(turned, step, span, strict=True)
    )
    return along_y, along_x


def _around(along: np.ndarray, side: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Pixels before and after places, and their weights."""
    before = np.clip(np.floor(along).astype(np.int64), 0, side - 1)
    part = along - before
    return (before, 1 - part), (np.minimum(before + 1, side - 1), part)
