"""Shapes of instances against scikit-image on the whole image."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from cases import FORMS, Case, as_form, cases, counted_reads, threads, tiles_of
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from skimage import measure

import harpy_core as hc
from harpy_core.aggregate import outlines
from harpy_core.aggregate.store import aggregate_to_store
from harpy_core.kernels import engine as kernels_of
from harpy_core.statistics.declared import of_labels
from harpy_core.statistics.label_partials import Inertia, Measured, shifted
from harpy_core.tiles.runs import encode_runs, measure_geometry

if TYPE_CHECKING:
    from anndata import AnnData
    from distributed import Client

SHAPES = of_labels(hc.STATISTICS)
OURS_ALONE = {"surface_area"}
HULLS = {"area_convex", "solidity", "feret_diameter_max"}
ENGINES = ("numba", "numpy")


def shapes_of(axes: int) -> list[str]:
    """Names of the shapes that labels of so many axes have.

    Hulls of volumes have a test of their own: scikit-image's take long, and flat ones have none.
    """
    names = [name for name, shape in SHAPES.items() if axes in shape.axes]
    return names if axes == 2 else [name for name in names if name not in HULLS]


def numbered(labels: np.ndarray) -> np.ndarray:
    """Labels that scikit-image takes: small numbers in the same order."""
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape) + (labels.min() > 0)


def assert_as_skimage(found: AnnData, labels: np.ndarray, spacing: Any = None) -> None:
    """The columns are those of scikit-image; angles only where the axes differ."""
    names = [name for name in shapes_of(labels.ndim) if name not in OURS_ALONE]
    expected = measure.regionprops_table(
        numbered(labels), properties=names, spacing=spacing or (1,) * labels.ndim
    )
    assert set(expected) <= set(found.obs)
    for name, values in expected.items():
        ours = found.obs[name].to_numpy()
        assert ours.dtype == np.float64
        if name == "orientation":
            long, short = found.obs["axis_major_length"], found.obs["axis_minor_length"]
            uneven = (long - short > 1e-3).to_numpy()
            turned = np.abs(ours - values) % np.pi
            assert np.all(np.minimum(turned, np.pi - turned)[uneven] < 1e-5)
        else:
            # Square roots of what is 0 but for rounding are as large as 1e-8 times an axis.
            np.testing.assert_allclose(ours, values, 1e-8, 1e-5, err_msg=name)


def measured(
    case: Case, form: str = "numpy", stats: Any = None, engine: str = "numba", **options: Any
) -> AnnData:
    """Shapes of a case, of labels alone."""
    names = stats or shapes_of(case.labels.ndim)
    with tempfile.TemporaryDirectory() as folder, tiles_of(case.tile):
        labels = as_form(form, case.labels, case.label_chunks, folder, "labels")
        return hc.aggregate_stats(None, labels, names, engine=engine, **options)


@given(cases(dtypes=("u1",)), st.sampled_from(FORMS), st.sampled_from(ENGINES))
def test_shapes_are_those_of_the_whole_image_in_scikit_image(
    case: Case, form: str, engine: str
) -> None:
    if case.labels.any():
        assert_as_skimage(measured(case, form, engine=engine), case.labels)


@given(cases(dtypes=("u1",)), st.sampled_from(FORMS), st.sampled_from([1, 3]))
def test_shapes_are_the_same_bits_for_every_chunking_engine_and_number_of_threads(
    case: Case, form: str, number: int
) -> None:
    whole = Case(case.image, case.labels, case.image.shape, case.labels.shape, 10**6)
    expected = measured(whole).obs
    for engine in ENGINES:
        with threads(number):
            assert measured(case, form, engine=engine).obs.equals(expected)


@pytest.mark.parametrize("axes", [2, 3])
def test_shapes_have_the_unit_of_the_sides_of_pixels(axes: int) -> None:
    rng = np.random.default_rng(1)
    labels = np.kron(rng.integers(0, 4, (4,) * axes), np.ones((3,) * axes, "u2")).astype("u2")
    spacing = (0.5, 0.5) if axes == 2 else (2.0, 0.5, 0.25)
    case = Case(labels, labels, labels.shape, (5,) * axes, 1)
    assert_as_skimage(measured(case, "zarr", spacing=spacing), labels, spacing)


@pytest.mark.parametrize("engine", ENGINES)
def test_hulls_of_volumes_are_those_of_the_whole_image_in_scikit_image(engine: str) -> None:
    rng = np.random.default_rng(2)
    blobs = ndimage.label(ndimage.gaussian_filter(rng.random((9, 24, 24)), 1.3) > 0.52)[0]
    large = [label for label, size in enumerate(np.bincount(blobs.ravel())) if size > 20]
    labels = np.where(np.isin(blobs, large), blobs, 0).astype("u2")
    found = measured(Case(labels, labels, labels.shape, (4, 7, 9), 1), "zarr", tuple(HULLS), engine)
    expected = measure.regionprops_table(labels, properties=list(HULLS))
    for name, values in expected.items():
        np.testing.assert_allclose(found.obs[name], values, 1e-6, err_msg=name)


def test_a_flat_instance_of_a_volume_has_a_hull() -> None:
    labels = np.zeros((3, 6, 6), "u1")
    labels[1, 1:5, 1:5] = 1
    labels[1, 2:4, 2:4] = 0
    labels[0, 0, 0] = 2
    found = hc.aggregate_stats(None, labels, tuple(HULLS))
    assert found.obs["area_convex"].tolist() == [16, 1]
    assert found.obs["feret_diameter_max"].tolist() == [5, 1]


def test_pixels_that_are_not_square_have_shapes_that_do_not_depend_on_it() -> None:
    labels = np.kron([[1, 2], [2, 2]], np.ones((4, 4), "u2"))
    square = {name for name, shape in SHAPES.items() if shape.square}
    names = [name for name in shapes_of(2) if name not in square]
    found = hc.aggregate_stats(None, labels, names, spacing=(2, 0.5))
    expected = measure.regionprops_table(labels.astype(int), properties=names, spacing=(2, 0.5))
    for name, values in expected.items():
        np.testing.assert_allclose(found.obs[name], values, 1e-9, 1e-9, err_msg=name)
    for name in square:
        with pytest.raises(hc.InputError, match=f"{name} needs sides of one length.* 2 x 0.5"):
            hc.aggregate_stats(None, labels, name, spacing=(2, 0.5))


def test_a_ball_has_the_surface_of_a_ball_in_pixels_of_any_shape() -> None:
    for spacing in ((1.0, 1.0, 1.0), (2.0, 0.5, 0.5), (0.3, 1.0, 0.6)):
        radius = 12.0
        reach = [int(radius / side) + 2 for side in spacing]
        grid = np.ogrid[tuple(slice(-n, n + 1) for n in reach)]
        far = sum((axis * side) ** 2 for axis, side in zip(grid, spacing, strict=True))
        ball = (far <= radius**2).astype("u1")
        found = hc.aggregate_stats(None, ball, "surface_area", spacing=spacing)
        assert found.obs["surface_area"].iloc[0] == pytest.approx(4 * np.pi * radius**2, rel=0.03)


def test_the_weights_of_lines_are_the_published_ones_in_cubic_pixels() -> None:
    from harpy_core.statistics.label_partials import weights_of_lines

    axis, plane, space = 0.04577789120476, 0.03698062787608, 0.03519563978232
    expected = 2 * np.array([axis] * 3 + [plane] * 3 + [space])
    np.testing.assert_allclose(weights_of_lines((1.0, 1.0, 1.0)), expected, rtol=1e-9)


def test_large_coordinates_lose_no_digit() -> None:
    small = np.zeros((40, 40), "u2")
    small[3:9, 5:30] = 7
    small[10, 17] = 7
    near = measured(Case(small, small, small.shape, (40, 40), 10**6))
    corner = np.zeros((2**10, 2**10), "u2")
    corner[-60:-20, -50:-10] = small
    kernels, origin = kernels_of("numba"), (0, 2**20 - 2**10, 2**20 - 2**10)
    runs = encode_runs(corner[np.newaxis], kernels)
    geometry = measure_geometry(runs, kernels, origin)
    table = (runs.start, runs.length, runs.slot, runs.slots, runs.row_stride, runs.plane_stride)
    words = {"moments": shifted(kernels.second_moments(*table), geometry.totals, origin)}
    far = Inertia.of(Measured(geometry.totals, geometry.box, words, (1.0, 1.0)))
    assert far.axes[0].tolist() == [
        near.obs[name].iloc[0] for name in ("axis_major_length", "axis_minor_length")
    ]


def test_shapes_come_with_the_statistics_of_the_same_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.kron(np.arange(1, 26, dtype="u4").reshape(5, 5), np.ones((9, 7), "u4"))
    image = rng.integers(0, 1000, (3, *labels.shape), dtype=np.uint16)
    stored = as_form("zarr", image, (1, 8, 8), tmp_path)
    given_labels = as_form("zarr", labels, (10, 6), tmp_path)
    names = ("mean", "perimeter", "median", "eccentricity", "bbox")
    for number in (1, 4):
        with tiles_of(1), threads(number), counted_reads(stored) as reads:
            found = hc.aggregate_stats(stored, given_labels, names)
        assert set(reads.values()) == {1}
        plain = hc.aggregate_stats(image, labels, ("mean", "median"))
        alone = hc.aggregate_stats(None, labels, ("perimeter", "eccentricity", "bbox"))
        assert list(found.layers) == ["mean", "median"]
        for name in ("mean", "median"):
            np.testing.assert_array_equal(found.layers[name], plain.layers[name])
        assert found.obs.equals(alone.obs)
        assert list(found.obs)[3:] == [
            "perimeter",
            "eccentricity",
            *(f"bbox-{i}" for i in range(4)),
        ]


def test_shapes_alone_read_no_chunk_of_the_image(tmp_path: Path) -> None:
    labels = np.kron(np.arange(1, 26, dtype="u4").reshape(5, 5), np.ones((9, 7), "u4"))
    image = as_form("zarr", np.ones((3, *labels.shape), "u2"), (1, 8, 8), tmp_path)
    with counted_reads(image) as reads:
        found = hc.aggregate_stats(image, labels, ("area", "perimeter"))
    assert not reads
    assert found.shape == (25, 3)
    assert found.X is None
    assert not found.layers


@pytest.mark.parametrize("form", ["zarr", "dask"])
def test_workers_measure_the_shapes_that_threads_measure(
    form: str, client: Client, tmp_path: Path
) -> None:
    labels = np.random.default_rng(0).integers(0, 40, (60, 60)).astype("u4")
    stored = as_form(form, labels, (20, 25), tmp_path, "labels")
    with tiles_of(1):
        found = hc.aggregate_stats(None, stored, shapes_of(2), client=client)
    assert found.obs.equals(hc.aggregate_stats(None, labels, shapes_of(2)).obs)


def test_a_label_that_is_not_there_has_no_shape() -> None:
    labels = np.kron(np.arange(1, 5).reshape(2, 2), np.ones((5, 5), "u2")).astype("u2")
    found = hc.aggregate_stats(None, labels, ("area", "perimeter"), index=[3, 9, 1])
    assert found.obs["area"].iloc[[0, 2]].tolist() == [25, 25]
    assert found.obs[["area", "perimeter"]].iloc[1].isna().all()


def test_a_table_on_disk_has_the_shapes_of_the_one_in_memory(tmp_path: Path) -> None:
    import anndata

    labels = np.kron(np.arange(1, 26, dtype="u4").reshape(5, 5), np.ones((9, 7), "u4"))
    image = np.ones((5, *labels.shape), "u2")
    for stats in (("mean", "solidity", "bbox"), ("solidity", "bbox")):
        aggregate_to_store(
            image, labels, tmp_path / "t.zarr", hc.find_instances(labels), stats, slab_bytes=1
        )
        stored = anndata.read_zarr(tmp_path / "t.zarr")
        expected = hc.aggregate_stats(image, labels, stats)
        assert list(stored.layers) == list(expected.layers)
        for name in ("solidity", "bbox-0", "bbox-3"):
            np.testing.assert_array_equal(stored.obs[name], expected.obs[name])


def test_a_shape_of_ones_own_is_a_column_beside_the_others() -> None:
    labels = np.kron(np.arange(1, 5).reshape(2, 2), np.ones((5, 5), "u2")).astype("u2")
    form = hc.Shape(
        "form_factor", "4 pi n / p^2", ("size", "borders"), lambda s, b: s.area / b.perimeter**2
    )
    found = hc.aggregate_stats(None, labels, ("area", form))
    assert found.obs["form_factor"].tolist() == [25 / 16**2] * 4


@pytest.mark.parametrize(
    ("labels", "options", "told"),
    [
        (np.ones((3, 3, 3), "u1"), {"stats": "perimeter"}, "perimeter is not defined .* 3 axes"),
        (np.ones((3, 3), "u1"), {"stats": "surface_area"}, "surface_area is not defined .* 2 axes"),
        (np.ones((3, 3), "u1"), {"stats": "area", "spacing": (1, 1, 1)}, "labels' 2 axes"),
        (np.ones((3, 3), "u1"), {"stats": "area", "spacing": (1, -1)}, "one positive number"),
        (np.ones((3, 3), "u1"), {"stats": "area", "spacing": 0.5}, "spacing = 0.5: give one pos"),
        (np.ones((3, 3), "u1"), {"stats": "area", "spacing": "metadata"}, "spacing = metadata: "),
        (np.ones((3, 3), "u1"), {"stats": ("area", "mean")}, "image = None: mean is measured"),
        (np.ones((3, 3), "u1"), {"stats": "perimetre"}, "did you mean perimeter"),
    ],
)
def test_what_cannot_be_measured_is_told_in_one_line(
    labels: np.ndarray, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(hc.InputError, match=told) as error:
        hc.aggregate_stats(None, labels, **options)
    assert "\n" not in str(error.value)


def test_runs_that_take_too_much_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.full((40, 6), 5, "u1")
    labels[:, 3] = 9
    with tiles_of(1), tempfile.TemporaryDirectory() as folder:
        stored = as_form("zarr", labels, (10, 6), folder, "labels")
        # Of 80 runs of label 5 and 40 of label 9 all wait but the last tile's.
        monkeypatch.setattr(outlines, "HELD_BYTES", 120 * outlines.Rows.BYTES)
        hc.aggregate_stats(None, stored, "perimeter")
        monkeypatch.setattr(outlines, "HELD_BYTES", 80 * outlines.Rows.BYTES)
        told = r"^stats: perimeter would hold more than .* GB of runs .*; 5 alone has 60 so far"
        with pytest.raises(hc.InputError, match=told), threads(1):
            hc.aggregate_stats(None, stored, ("area", "perimeter"))


def test_a_shape_needs_label_partials_that_exist() -> None:
    with pytest.raises(hc.InputError, match="needs 'sum'; choose from the label partials size"):
        hc.Shape("s", "of another kind", ("sum",), lambda s: s)
