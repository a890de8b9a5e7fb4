"""Expected results, in plain Python, NumPy and SciPy; shares no code with harpy_core."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from scipy import ndimage
from skimage.measure import regionprops

STATISTICS = ("count", "sum", "mean", "var", "std", "min", "max", "skew", "kurtosis")


def labels_in(labels: np.ndarray) -> np.ndarray:
    """All labels but the background, ascending, as uint64."""
    found = np.unique(labels)
    return found[found != 0].astype(np.uint64)


def spatial(image: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Image as (c, z, y, x) and labels as (z, y, x)."""
    return image if image.ndim == 4 else image[:, np.newaxis], (
        labels if labels.ndim == 3 else labels[np.newaxis]
    )


def _integers(values: np.ndarray) -> tuple[list[int], int]:
    """Pixels as exact integers over a common denominator."""
    ratios = [v.as_integer_ratio() for v in values.tolist()]
    denominator = max(d for _, d in ratios)
    return [n * (denominator // d) for n, d in ratios], denominator


def statistics_of(values: np.ndarray) -> dict[str, float]:
    """Statistics of some pixels: rational arithmetic, rounded to float64 once at the end.

    Infinite or NaN pixels give what IEEE arithmetic gives for the two-pass formulas.
    """
    if values.dtype.kind == "b":
        values = values.astype(np.uint8)
    if values.dtype.kind == "f" and not np.all(np.isfinite(values)):
        with np.errstate(invalid="ignore"):
            total = float(values.astype(np.float64).sum())
        least, most = float(values.min()), float(values.max())
        undefined = dict.fromkeys(("var", "std", "skew", "kurtosis"), np.nan)
        mean = total / values.size
        return {
            "count": float(values.size),
            "sum": total,
            "mean": mean,
            "min": least,
            "max": most,
            **undefined,
        }
    x, unit = _integers(values)
    n, total = len(x), sum(x)
    # Distances to the mean, times n: integers again.
    far = [n * v - total for v in x]
    m2, m3, m4 = (Fraction(sum(d**k for d in far), n ** (k + 1) * unit**k) for k in (2, 3, 4))
    return {
        "count": float(n),
        "sum": float(Fraction(total, unit)),
        "mean": float(Fraction(total, unit * n)),
        "var": float(m2),
        "std": float(m2) ** 0.5,
        "min": float(Fraction(min(x), unit)),
        "max": float(Fraction(max(x), unit)),
        "skew": float(m3) / float(m2) ** 1.5 if m2 else np.nan,
        "kurtosis": float(m4 / m2**2 - 3) if m2 else np.nan,
    }


def statistics(image: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Each statistic as (instances, c), instances in ascending order."""
    image, labels = spatial(image, labels)
    ids = labels_in(labels)
    layers = {name: np.empty((len(ids), len(image))) for name in STATISTICS}
    for row, label in enumerate(ids):
        inside = labels == label.astype(labels.dtype)
        for c, plane in enumerate(image):
            for name, value in statistics_of(plane[inside]).items():
                layers[name][row, c] = value
    return layers


def geometry(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels, centroids (z, y, x) and bounding boxes, instances in ascending order."""
    labels = labels if labels.ndim == 3 else labels[np.newaxis]
    found, dense = np.unique(labels, return_inverse=True)
    dense = dense.reshape(labels.shape) + (0 if found.size and found[0] == 0 else 1)
    numbers = np.arange(1, dense.max(initial=0) + 1)
    count = np.bincount(dense.ravel(), minlength=1)[1:]
    if not len(numbers):
        return np.zeros(0, int), np.zeros((0, 3)), np.zeros((0, 6), int)
    centroid = np.array(ndimage.center_of_mass(dense > 0, dense, numbers))
    boxes = [[*(s.start for s in b), *(s.stop for s in b)] for b in ndimage.find_objects(dense)]
    return count, centroid, np.array(boxes)


def crops(
    image: np.ndarray,
    labels: np.ndarray,
    diameter: int | list[int],
    remove_background: bool,
    padding: str | float = 0,
) -> dict[int, np.ndarray]:
    """Crop (c, z, y, x) of each label, cut from a padded image; z whole unless given."""
    image, labels = spatial(image, labels)
    *planes, tall, wide = [diameter, diameter] if isinstance(diameter, int) else diameter
    sides = (*(planes or [labels.shape[0]]), tall, wide)
    around = tuple((side, side) for side in sides)
    way = (
        {"mode": padding}
        if isinstance(padding, str)
        else {"mode": "constant", "constant_values": padding}
    )
    padded_image = np.pad(image, ((0, 0), *around), **way)
    padded_labels = np.pad(labels, around)
    found = {}
    for label in labels_in(labels):
        inside = labels == label.astype(labels.dtype)
        middle = [round(float(p.mean())) for p in np.nonzero(inside)]
        corner = [m - side // 2 + side for m, side in zip(middle, sides, strict=True)]
        corner[0] = corner[0] if planes else sides[0]
        window = (..., *(slice(c, c + side) for c, side in zip(corner, sides, strict=True)))
        crop = padded_image[window].copy()
        if remove_background:
            crop[:, padded_labels[window] != label.astype(labels.dtype)] = 0
        found[int(label)] = crop
    return found


def neighbor_masks(labels: np.ndarray, diameter: int | list[int]) -> dict[int, np.ndarray]:
    """Where the window of each label has pixels of other labels, (z, y, x) uint8."""
    numbers = np.unique(labels, return_inverse=True)[1].reshape(labels.shape) + 1
    windows = crops(numbers[np.newaxis], labels, diameter, False)
    background = numbers[labels == 0].max(initial=0)
    found = {}
    for label, window in windows.items():
        own = numbers[labels == labels.dtype.type(label)][0]
        found[label] = ~np.isin(window[0], (0, background, own))
    return {label: other.astype("u1") for label, other in found.items()}


def longest_axis(labels: np.ndarray) -> dict[int, float]:
    """Angle from x to the longest axis of each label, y downwards, from scikit-image's orientation.

    At most a right angle; 0 where there is no longest axis.
    """
    plane = labels.reshape(labels.shape[-2:])
    found = {}
    for label in labels_in(labels):
        (region,) = regionprops((plane == label.astype(plane.dtype)).astype("u1"))
        down, right = np.cos(region.orientation), np.sin(region.orientation)
        angle = np.arctan2(down, right) if right > 1e-12 else np.arctan2(-down, -right)
        angle = np.pi / 2 if abs(right) <= 1e-12 else angle
        round_ = np.isclose(region.axis_major_length, region.axis_minor_length, rtol=0, atol=1e-6)
        found[int(label)] = 0.0 if round_ else float(angle)
    return found


def sampled_crops(
    image: np.ndarray,
    labels: np.ndarray,
    diameter: int | list[int],
    remove_background: bool,
    step: tuple[float, float] = (1.0, 1.0),
    angles: dict[int, float] | None = None,
    padding: float = 0,
    order: int = 1,
) -> dict[int, np.ndarray]:
    """Crop (c, z, y, x) float64 of each label, sampled from the whole image by SciPy.

    `order` 1 averages samples spread over each pixel; 0 takes the nearest pixel of its centre.
    """
    image, labels = spatial(image, labels)
    tall, wide = [diameter, diameter] if isinstance(diameter, int) else diameter[-2:]
    number = int(np.ceil(max(step))) if order else 1
    inner = (np.arange(number) + 0.5) / number - 0.5
    i = (np.arange(tall) - tall // 2)[:, None, None, None] + inner[None, None, :, None]
    j = (np.arange(wide) - wide // 2)[None, :, None, None] + inner[None, None, None, :]
    found = {}
    for label in labels_in(labels):
        inside = labels == label.astype(labels.dtype)
        _, y0, x0 = (round(float(p.mean())) for p in np.nonzero(inside))
        angle = angles[int(label)] if angles else 0.0
        down, right = np.cos(angle), np.sin(angle)
        places = np.broadcast_arrays(
            y0 + (i * down + j * right) * step[0], x0 + (j * down - i * right) * step[1]
        )
        pixels = np.where(inside, image, 0) if remove_background else image
        crop = [
            [
                ndimage.map_coordinates(
                    plane.astype("f8"), places, order=order, mode="grid-constant", cval=padding
                ).mean(axis=(2, 3))
                for plane in planes
            ]
            for planes in pixels
        ]
        found[int(label)] = np.array(crop)
    return found
