"""Angles by which windows are turned, from the second moments of the instances' labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harpy_core.aggregate.aggregation import Aggregation
from harpy_core.running.progress import track
from harpy_core.statistics.shapes import Shape

if TYPE_CHECKING:
    from distributed import Client

    from harpy_core.statistics.label_partials import Inertia


def _angle(moments: Inertia) -> np.ndarray:
    # Of the last two axes, y and x: elements are the other axes' variances, or minus a covariance.
    along_y, along_x = (moments.tensor[:, axis, axis] for axis in (-1, -2))
    # Adding 0 leaves no negative zero, of which the other right angle would come.
    product = 0.0 - 2 * moments.tensor[:, -2, -1] + 0.0
    return 0.5 * np.arctan2(product, along_x - along_y)


ANGLE = Shape(
    "angle",
    "angle from the x axis to the longest axis, with y downwards, 1/2 atan2(2 cov(x, y), var(x) - "
    "var(y)): above -pi/2 and up to pi/2; 0 where both axes are equally long",
    ("moments",),
    _angle,
    "radians",
)


def angles(
    labels: Any,
    ids: np.ndarray,
    spacing: Sequence[float] | None,
    engine: str,
    client: Client | None,
    strict: bool | None,
) -> np.ndarray:
    """Measure the angle of each of some instances, in one pass over the labels.

    Parameters
    ----------
    labels
        (y, x), or (1, y, x): in several planes, the angle is that of their projection.
    ids
        Labels of the instances.
    spacing
        Side of a pixel along (z, ) y and x; None: pixels are squares.

    Returns
    -------
    (instances,) float64
        Angle from x to the longest axis, with y downwards; 0 where both are equally long.
    """
    sides = None if spacing is None else (1.0, *spacing[-2:])[-labels.ndim :]
    job = Aggregation.of(None, labels, (ANGLE,), None, engine, False, strict, client, spacing=sides)
    with track(job.pixels, "angles", enabled=False) as bar:
        found = job.measure(job.channel_edges, client, bar, ids)
    return np.asarray(found.shapes["angle"])
