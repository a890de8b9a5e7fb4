"""Interpolation of the pixels of one window: bilinear, in float64, of means of samples.

Pixel (i, j) of a crop of n x m pixels lies (i - n // 2, j - m // 2) of its pixels from the pixel of
the image that holds the instance's centroid (rounded half to even, as for any window), turned by
the instance's angle, times the distance of neighbouring pixels. Where that is more than a pixel of
the image, the pixel is the mean of k x k samples that lie evenly in its square, k the distance
rounded up; each sample is interpolated linearly from the four pixels around it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np

from harpy_core.extract.views import View


@dataclass(frozen=True, slots=True)
class Grid:
    """Places of the samples of a crop in its gathered window.

    Attributes
    ----------
    nearest_pixel : (pixels,) int64
        Offset in a plane of the window of the pixel nearest to each pixel of the crop.
    pixel : (terms, pixels) int64
        Offsets of the pixels that each is a mean of.
    weight : (terms, pixels) float64
        Their weights.
    """

    nearest_pixel: np.ndarray
    pixel: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, view: View, angle: float = 0.0) -> Grid:
        """Place the samples of a window.

        Parameters
        ----------
        angle
            Angle from x to the direction, with y downwards, that is to lie along x.
        """
        _, height, width = view.span
        sides = (height, width)
        y, x = _places(view, angle, 0.0, 0.0)
        nearest = np.clip(np.floor(y + 0.5), 0, height - 1).astype(np.int64) * width
        nearest += np.clip(np.floor(x + 0.5), 0, width - 1).astype(np.int64)
        pixels, weights = [], []
        inner = (np.arange(view.samples) + 0.5) / view.samples - 0.5
        for down in inner.tolist():
            for right in inner.tolist():
                corners = [
                    _around(along, side)
                    for along, side in zip(_places(view, angle, down, right), sides, strict=True)
                ]
                for (row, of_row), (column, of_column) in product(*corners):
                    share = of_row * of_column
                    if share.any():
                        pixels.append(row * width + column)
                        weights.append(share / view.samples**2)
        return cls(nearest, np.stack(pixels), np.stack(weights))

    def means(self, planes: np.ndarray) -> np.ndarray:
        """Interpolate planes of a window, (planes, pixels), in float64."""
        found = np.zeros((len(planes), self.pixel.shape[1]))
        # Term by term, in a fixed order: a product of matrices may take any.
        with np.errstate(invalid="ignore"):
            for pixel, weight in zip(self.pixel, self.weight, strict=True):
                found += planes[:, pixel] * weight
        return found

    def nearest(self, planes: np.ndarray) -> np.ndarray:
        """Nearest pixels of planes of a window, (planes, pixels)."""
        return planes[:, self.nearest_pixel]


def _places(view: View, angle: float, down: float, right: float) -> tuple[np.ndarray, np.ndarray]:
    """Places of samples in the window along y and x, (pixels,) each, from its first pixel's centre.

    The samples lie `down` and `right` of the crop's pixels, as parts of these.
    """
    _, rows, columns = view.size
    y = (np.arange(rows) - rows // 2 + down)[:, np.newaxis]
    x = np.arange(columns) - columns // 2 + right
    sine, cosine = (math.sin(angle), math.cos(angle)) if angle else (0.0, 1.0)
    turned = x * sine + y * cosine, x * cosine - y * sine
    along_y, along_x = (
        (part * step + side // 2).ravel()
        for part, step, side in zip(turned, view.step, view.span[1:], strict=True)
    )
    return along_y, along_x


def _around(along: np.ndarray, side: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Pixels before and after places, and their weights."""
    before = np.clip(np.floor(along).astype(np.int64), 0, side - 1)
    part = along - before
    return (before, 1 - part), (np.minimum(before + 1, side - 1), part)
