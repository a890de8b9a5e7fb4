"""Tables of generated cases, and how two of them are compared."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np
from cases import Case, as_form, tiles_of
from oracle import STATISTICS

import harpy_core as hc

if TYPE_CHECKING:
    from anndata import AnnData

EXACT = ("count", "sum", "min", "max")


def measured(case: Case, form: str = "numpy", labels_form: str = "", **options: Any) -> AnnData:
    """All statistics of a case, given as some form of array."""
    with tempfile.TemporaryDirectory() as folder, tiles_of(case.tile):
        image = as_form(form, case.image, case.image_chunks, folder)
        labels = as_form(labels_form or form, case.labels, case.label_chunks, folder, "labels")
        return hc.aggregate_stats(image, labels, STATISTICS, **options)


def scale_of(image: np.ndarray) -> float:
    """The size of pixels against which a float sum's last digits are to be seen."""
    finite = np.abs(image[np.isfinite(image)].astype(np.float64))
    return float(finite.max(initial=1.0))


def assert_close(found: AnnData, expected: dict[str, np.ndarray], rtol: float, size: float) -> None:
    """Agreement to `rtol`, relative to the value and, where terms cancel, to the terms' size."""
    # A sum, and odd moments, can cancel: then their digits are those of their terms.
    slack = {"sum": size * found.obs["count"].max() if len(found) else 0.0, "mean": size}
    for name, values in expected.items():
        least = rtol * slack.get(name, 1.0 if name in ("skew", "kurtosis") else 0.0)
        np.testing.assert_allclose(found.layers[name], values, rtol, least, err_msg=name)


def assert_same_bits(a: AnnData, b: AnnData) -> None:
    for name in STATISTICS:
        np.testing.assert_array_equal(a.layers[name], b.layers[name], err_msg=name)
    np.testing.assert_array_equal(a.obsm["spatial"], b.obsm["spatial"])
    assert a.obs.equals(b.obs)


def tissue(dtype: str = "f4", size: int = 30) -> Case:
    """Nine square cells, one of them touching the edge on two sides, in chunks that cut them."""
    rng = np.random.default_rng(3)
    labels = np.zeros((size, size), "u4")
    for i, (y, x) in enumerate(np.ndindex(3, 3)):
        labels[10 * y : 10 * y + 8, 10 * x : 10 * x + 7] = 10 * i + 3
    image = rng.integers(0, 200, (3, size, size)).astype(dtype)
    return Case(image, labels, (2, 7, 9), (11, 30), 1)
