"""Estimate of how much smaller crops become on disk, from a sample."""

from __future__ import annotations

from typing import Any

import numpy as np

from harpy_core.extract.finishing import Finish
from harpy_core.extract.layout import CropLayout
from harpy_core.extract.windows import Windows, windows_of
from harpy_core.instances.finding import Instances
from harpy_core.raster.raster import Raster
from harpy_core.storage import codecs

SAMPLES = 4
_CROPS = 64
_CHANNELS = 5
_REACH = 512
"""Pixels between crops of a sample, at most: a read extends that far and a window more on each
side, however far apart the instances are."""


def stored_ratio(
    raster: Raster,
    instances: Instances,
    finish: Finish,
    deep: bool,
    remove_background: bool,
) -> float:
    """Encoded bytes per raw byte of crops, from some crops of some groups of channels.

    Parameters
    ----------
    raster
        The image and its labels; Dask arrays, which would have to be computed, are taken as
        incompressible.
    instances
        Instances that are cropped.
    finish
        What is made of the windows; they are sampled as if none was turned.
    deep
        Whether windows have some planes around the centroid, and not all.
    remove_background
        Whether pixels outside an instance are 0.
    """
    layout = finish.layout
    raw = encoded = 0
    for sample in range(0 if raster.lazy or len(instances) == 0 else SAMPLES):
        # Spread over the image, and each sample in another group of channels.
        row = (2 * sample + 1) * len(instances) // (2 * SAMPLES)
        first = sample * layout.channels // SAMPLES // layout.group * layout.group
        channels = slice(first, min(first + min(layout.group, _CHANNELS), layout.channels))
        near = _around(instances, row, max(_REACH, *layout.size[1:]))
        found, windows = _gathered(
            raster.image, raster.labels, near, channels, layout, deep, remove_background
        )
        for view in finish.views:
            stored = finish.crops(view, "image", found, windows.corner, np.zeros(len(near)))
            raw += stored.nbytes
            encoded += sum(map(len, codecs.encode(layout.codec, np.ascontiguousarray(stored))))
    return encoded / raw if raw else 1.0


def _around(instances: Instances, row: int, reach: int) -> Instances:
    """Return an instance and those nearest to it, none further away than `reach` pixels."""
    distance = np.abs(instances.centroid[:, 1:] - instances.centroid[row, 1:]).max(axis=1)
    nearest = np.argsort(distance, kind="stable")[:_CROPS]
    # As the store has them: neighbours that follow each other share pixels, and a codec finds them.
    return instances.rows(np.sort(nearest[distance[nearest] <= reach]))


def _gathered(
    image: Any,
    labels: Any,
    near: Instances,
    channels: slice,
    layout: CropLayout,
    deep: bool,
    remove_background: bool,
) -> tuple[np.ndarray, Windows]:
    """Gather some channels of some windows, (n, c, z, y, x)."""
    plane = (labels.shape[-2], labels.shape[-1])
    windows = windows_of(near, layout.size, deep, plane, not remove_background)
    low, high = windows.low.min(axis=0), windows.high.max(axis=0)
    part = (*(slice(int(a), int(b)) for a, b in zip(low, high, strict=True)),)
    depth = (slice(None),) * (labels.ndim - 2)
    pixels = np.asarray(image[(channels, *depth, *part)])
    where = np.asarray(labels[(*depth, *part)])
    planes = pixels.reshape(len(pixels), -1, *pixels.shape[-2:])
    where = where.reshape(planes.shape[1:])
    crops = np.zeros((len(near), len(pixels), *layout.size), layout.gathered("image"))
    for row, (crop, instance, corner) in enumerate(
        zip(crops, near.id, windows.corner, strict=True)
    ):
        a, b = windows.low[row], windows.high[row]
        if np.any(b <= a):
            continue
        y, x = (slice(*span) for span in zip(a - low, b - low, strict=True))
        top = int(corner[0])
        z = slice(max(top, 0), min(top + layout.depth, planes.shape[1]))
        found = planes[:, z, y, x]
        if remove_background:
            found = np.where(where[z, y, x] == instance, found, 0)
        y, x = (slice(*span) for span in zip(a - corner[1:], b - corner[1:], strict=True))
        crop[:, z.start - top : z.stop - top, y, x] = found
    return crops, windows
