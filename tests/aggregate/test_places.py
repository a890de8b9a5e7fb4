"""Statistics of pixels and places, of pairs of channels, and of a user's own functions."""

from __future__ import annotations

import math
import sys
import tempfile
import time
import types
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from cases import FORMS, Case, as_form, cases, tiles_of
from hypothesis import given
from hypothesis import strategies as st
from oracle import labels_in, spatial
from scipy import ndimage
from skimage.measure import (
    manders_coloc_coeff,
    manders_overlap_coeff,
    pearson_corr_coeff,
    regionprops,
)
from tables import tissue

import harpy_core as hc
from harpy_core.aggregate import whole
from harpy_core.aggregate.store import aggregate_to_store
from harpy_core.running import schedule
from harpy_core.statistics import calling, own

if TYPE_CHECKING:
    from anndata import AnnData
    from distributed import Client

RINGS = 3
SHAPED = (
    "centroid_weighted-z",
    "centroid_weighted-y",
    "centroid_weighted-x",
    "mass_displacement",
    "edge_mean",
    "edge_std",
    "edge_sum",
)
ASKED = (*SHAPED, hc.radial_mean(RINGS))
PAIR = [("0", "1")]
BOUNDS = {"0": 90.0, "1": 120.0}
PAIRED = (
    hc.pearson_corr_coeff(PAIR),
    hc.manders_overlap_coeff(PAIR),
    hc.manders_coloc_coeff(PAIR, BOUNDS),
)


def rings_of(coordinates: np.ndarray) -> np.ndarray:
    """Ring of each pixel, in exact integers: floor(n * r / R)."""
    far = coordinates * len(coordinates) - coordinates.sum(axis=0)
    square = (far.astype(object) ** 2).sum(axis=1)
    largest = max(square) or 1
    rings = [math.isqrt(RINGS**2 * s // largest) for s in square]
    return np.minimum(rings, RINGS - 1)


def shaped(plane: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """What scikit-image, SciPy and NumPy give for the pixels of a mask."""
    axes = (0, 1, 2) if mask.shape[0] > 1 else (1, 2)
    flat = mask if len(axes) == 3 else mask[0]
    values = plane.astype(np.float64)
    props = regionprops(mask.astype(np.uint8), values)[0]
    with np.errstate(invalid="ignore", divide="ignore"):
        weighted = np.array(props.centroid_weighted)
    eroded = ndimage.binary_erosion(flat, ndimage.generate_binary_structure(len(axes), 1))
    edge = values[mask & ~eroded.reshape(mask.shape)]
    ring = rings_of(np.argwhere(mask))
    inside = values[mask]
    found = {f"centroid_weighted-{axis}": weighted[i] for i, axis in enumerate("zyx")}
    found["mass_displacement"] = float(np.linalg.norm(weighted - np.array(props.centroid)))
    found |= {"edge_mean": edge.mean(), "edge_std": edge.std(), "edge_sum": edge.sum()}
    for k in range(RINGS):
        some = inside[ring == k]
        found[f"radial_mean-{k + 1}"] = some.mean() if some.size else np.nan
    return found


def found(case: Case, form: str = "numpy", stats: Any = ASKED, **options: Any) -> AnnData:
    with tempfile.TemporaryDirectory() as folder, tiles_of(case.tile):
        image = as_form(form, case.image, case.image_chunks, folder)
        labels = as_form(form, case.labels, case.label_chunks, folder, "labels")
        return hc.aggregate_stats(image, labels, stats, **options)


def assert_same(table: AnnData, other: AnnData) -> None:
    for name, values in other.layers.items():
        np.testing.assert_array_equal(table.layers[name], values, err_msg=name)
    for name, values in other.obsm.items():
        np.testing.assert_array_equal(np.asarray(table.obsm[name]), np.asarray(values), name)


@given(cases(dtypes=("u1", "u2", "f4")), st.sampled_from(FORMS))
def test_edges_rings_and_weighted_centroids_are_those_of_scikit_image(
    case: Case, form: str
) -> None:
    # A weighted mean of pixels of both signs may have no digits.
    case = replace(case, image=np.abs(case.image))
    table = found(case, form)
    image, labels = spatial(case.image, case.labels)
    for row, label in enumerate(labels_in(labels)):
        inside = labels == label.astype(labels.dtype)
        for c, plane in enumerate(image):
            for name, value in shaped(plane, inside).items():
                size = float(plane.max(initial=1)) if name.startswith("edge") else 1.0
                np.testing.assert_allclose(
                    table.layers[name][row, c], value, 1e-9, 1e-9 * size, err_msg=name
                )


@given(cases(), st.sampled_from(FORMS), st.sampled_from(["numpy", "numba"]), st.booleans())
def test_chunks_and_engines_change_no_bit_of_any_type(
    case: Case, form: str, engine: str, ignore_nan: bool
) -> None:
    if case.image.dtype.kind == "f":
        case.image[np.random.default_rng(1).random(case.image.shape) < 0.1] = np.nan
    pairs = (ASKED, hc.pearson_corr_coeff(PAIR)) if len(case.image) > 1 else ASKED
    whole_case = Case(case.image, case.labels, case.image.shape, case.labels.shape, 1 << 20)
    options = {"ignore_nan": ignore_nan}
    other = found(whole_case, stats=pairs, engine="numba", **options)
    assert_same(found(case, form, pairs, engine=engine, **options), other)


@given(cases(dtypes=("u1", "u2", "f4")), st.sampled_from(FORMS))
def test_pairs_are_those_of_scikit_image(case: Case, form: str) -> None:
    image = np.abs(case.image)
    image = np.concatenate([image, image[:1] // 2 + image.mean().astype(image.dtype)])[:2]
    case = replace(case, image=image)
    table = found(case, form, PAIRED)
    for row, label in enumerate(labels_in(case.labels)):
        mask = case.labels == label.astype(case.labels.dtype)
        x, y = (plane.astype(np.float64) for plane in image)
        if mask.sum() > 1 and x[mask].std() > 0 and y[mask].std() > 0:
            expected = pearson_corr_coeff(x, y, mask)[0]
            value = table.obsm["pearson_corr_coeff"].iloc[row, 0]
            np.testing.assert_allclose(value, expected, 1e-7, 1e-7)
        else:
            assert np.isnan(table.obsm["pearson_corr_coeff"].iloc[row, 0])
        if x[mask].any() and y[mask].any():
            coloc = table.obsm["manders_coloc_coeff"].iloc[row]
            for (one, a), (other, b) in (((x, "0"), (y, "1")), ((y, "1"), (x, "0"))):
                above = other > BOUNDS[b]
                expected = manders_coloc_coeff(one, above, mask)
                np.testing.assert_allclose(coloc[f"{a}:{b}"], expected, 1e-9)
            value = table.obsm["manders_overlap_coeff"].iloc[row, 0]
            np.testing.assert_allclose(value, manders_overlap_coeff(x, y, mask), 1e-9)


def ranges(pixels: np.ndarray, coordinates: np.ndarray) -> tuple[float, float]:
    """Range of the pixels, and the height of the instance."""
    assert pixels.shape == (1, coordinates.shape[1])
    return float(np.ptp(pixels)), float(np.ptp(coordinates[1]) + 1)


def mixture(pixels: np.ndarray, coordinates: np.ndarray) -> np.ndarray:
    """First pixel in image order of each channel, and the sum of x."""
    return np.array([*pixels[:, 0].astype(float), coordinates[2].sum()])


def area(pixels: np.ndarray, coordinates: np.ndarray) -> int:
    """Number of pixels."""
    return pixels.shape[1]


OWN = (
    hc.measure(ranges, outputs=("range", "height")),
    hc.measure(mixture, outputs=("second", "first", "x"), per="instance", channels=("2", "0")),
    area,
    "mean",
)


@pytest.mark.parametrize("form", ["numpy", "zarr", "dask"])
def test_functions_of_ones_own_see_each_instance_whole_and_in_order(form: str) -> None:
    case = tissue("u2")
    table = found(case, form, OWN)
    for row, label in enumerate(labels_in(case.labels)):
        where = np.argwhere(case.labels == label)
        pixels = case.image[:, where[:, 0], where[:, 1]]
        np.testing.assert_array_equal(table.layers["ranges-range"][row], np.ptp(pixels, axis=1))
        np.testing.assert_array_equal(table.layers["ranges-height"][row], np.ptp(where[:, 0]) + 1)
        np.testing.assert_array_equal(table.layers["area"][row], len(where))
        assert table.obsm["mixture"].iloc[row].tolist() == [
            pixels[2, 0],
            pixels[0, 0],
            where[:, 1].sum(),
        ]
    assert list(table.layers) == ["ranges-range", "ranges-height", "area", "mean"]


def in_four_tiles() -> Case:
    """Whole instances in each of four tiles."""
    labels = np.kron(np.arange(1, 65).reshape(8, 8), np.ones((8, 8), int)).astype("u4")
    return Case(np.ones((2, 64, 64), "u2"), labels, (2, 32, 32), (32, 32), 1)


def test_a_process_calls_functions_from_one_thread_at_a_time() -> None:
    case = in_four_tiles()
    inside, most = 0, 0

    def slow(pixels: np.ndarray, coordinates: np.ndarray) -> int:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.0005)
        inside -= 1
        return 0

    def slow_too(pixels: np.ndarray, coordinates: np.ndarray, starts: np.ndarray) -> np.ndarray:
        return np.full(len(starts) - 1, slow(pixels, coordinates))

    with schedule.own_threads(4):
        found(case, "zarr", ["mean", slow, hc.measure(slow_too, batched=True)])
    assert most == 1


def steps(pixels: np.ndarray, coordinates: np.ndarray) -> tuple[float, float]:
    """Largest pixel of all channels, and the sum of x in an instance."""
    return float(pixels.max()), float(coordinates[2].sum())


def steps_of_many(pixels: np.ndarray, coordinates: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The same of several instances."""
    assert starts[0] == 0
    assert starts[-1] == pixels.shape[1] == coordinates.shape[1]
    most = np.maximum.reduceat(pixels.max(axis=0), starts[:-1])
    return np.stack([most, np.add.reduceat(coordinates[2], starts[:-1])], axis=1)


@given(
    cases(dtypes=("u1", "f4")),
    st.sampled_from(["numpy", "zarr"]),
    st.sampled_from([1, 9, 10**6]),
    st.sampled_from(["channel", "instance"]),
)
def test_functions_of_many_instances_at_a_time_give_what_they_give_one_by_one(
    case: Case, form: str, most: int, per: Any
) -> None:
    if case.image.dtype.kind == "f":
        case.image[np.random.default_rng(1).random(case.image.shape) < 0.2] = np.nan
    declared = {"outputs": ("most", "x"), "per": per}
    options = {"ignore_nan": True}
    one = found(case, "numpy", hc.measure(steps, **declared), **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calling, "BATCH_PIXELS", most)
        many = hc.measure(steps_of_many, **declared, batched=True)
        other = found(case, form, many, **options)
    for name in ("most", "x"):
        if per == "channel":
            pair = [t.layers[f"{f}-{name}"] for t, f in ((one, "steps"), (other, "steps_of_many"))]
        else:
            pair = [t.obsm[f][name] for t, f in ((one, "steps"), (other, "steps_of_many"))]
        np.testing.assert_array_equal(*pair)


def too_few(pixels: np.ndarray, coordinates: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """One number, whatever is asked."""
    return np.zeros(1) if len(starts) > 2 else np.zeros((2, 2))


def test_a_batched_function_that_fails_or_returns_too_few_is_named() -> None:
    case = tissue("u2")
    with pytest.raises(hc.InputError, match=r"too_few returned numbers of shape .* instances"):
        found(case, "zarr", hc.measure(too_few, batched=True))
    with pytest.raises(hc.InputError, match=r"steps failed on a batch of \d+ .*TypeError"):
        found(case, "zarr", hc.measure(steps, batched=True))


def test_workers_give_what_threads_give(client: Client) -> None:
    case = tissue("u2")
    assert_same(
        found(case, "zarr", (*OWN, *ASKED, *PAIRED), client=client),
        found(case, "numpy", (*OWN, *ASKED, *PAIRED)),
    )


def test_the_store_has_what_the_table_has_in_slabs_that_keep_channels_together(
    tmp_path: Any,
) -> None:
    import anndata

    case = tissue("u2", 30)
    image = np.concatenate([case.image, case.image + 5])
    pairs = hc.pearson_corr_coeff([("1", "3")])
    stored = as_form("zarr", image, (1, 7, 9), tmp_path)
    instances = hc.find_instances(case.labels)
    place = tmp_path / "table.zarr"
    for stats in ((pairs, "edge_mean", "mean"), (pairs,)):
        with tiles_of(1):
            aggregate_to_store(stored, case.labels, place, instances, stats, slab_bytes=1)
        assert_same(anndata.read_zarr(place), hc.aggregate_stats(image, case.labels, stats))


def test_labels_that_are_not_there_have_no_numbers() -> None:
    table = found(tissue("u2"), "zarr", (*PAIRED, "edge_sum", "mean"), index=[43, 1])
    assert np.isnan(table.obsm["pearson_corr_coeff"].iloc[1]).all()
    assert np.isnan(table.layers["edge_sum"][1]).all()
    assert not np.isnan(table.layers["edge_sum"][0]).any()


def failing(pixels: np.ndarray, coordinates: np.ndarray) -> float:
    """A function with a mistake."""
    return pixels[7, 0] / 0


def test_a_function_that_fails_or_returns_too_much_is_named() -> None:
    case = tissue("u2")
    with pytest.raises(hc.InputError, match=r"failing failed on instance \d+ .*IndexError"):
        found(case, "zarr", failing)
    with pytest.raises(hc.InputError, match=r"ranges returned 2 numbers .* declares 1"):
        found(case, "zarr", hc.measure(ranges))


def test_numbers_that_are_lost_and_names_that_are_taken_are_refused() -> None:
    case = tissue("u2")

    def imaginary(pixels: np.ndarray, coordinates: np.ndarray) -> Any:
        return np.array(1 + 2j)

    def leaving(pixels: np.ndarray, coordinates: np.ndarray) -> Any:
        raise SystemExit(3)

    def spatial(pixels: np.ndarray, coordinates: np.ndarray) -> float:
        return 0.0

    with pytest.raises(hc.InputError, match=r"imaginary failed .* complex numbers"):
        found(case, "numpy", imaginary)
    with pytest.raises(hc.InputError, match=r"leaving failed .* SystemExit: 3"):
        found(case, "numpy", leaving)
    with pytest.raises(hc.InputError, match="'spatial' are the centroids in obsm; rename"):
        found(case, "numpy", hc.measure(spatial, per="instance"))


def test_a_function_that_workers_cannot_import_is_told_as_such(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    here_alone = types.ModuleType("here_alone")
    exec("def one(pixels, coordinates):\n    return 1.0\n", here_alone.__dict__)
    monkeypatch.setitem(sys.modules, "here_alone", here_alone)
    one = here_alone.__dict__["one"]
    with pytest.raises(hc.InputError, match=r"one failed .* No module named 'here_alone'"):
        found(in_four_tiles(), "zarr", one, client=client)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of the user's own in the working directory."""
    (tmp_path / "mine/deep").mkdir(parents=True)
    (tmp_path / "mine/__init__.py").write_text("from .outer import one\n")
    (tmp_path / "mine/deep/__init__.py").write_text("")
    (tmp_path / "mine/outer.py").write_text("one = 1\n")
    (tmp_path / "mine/near.py").write_text("two = 2\n")
    (tmp_path / "mine/deep/stats.py").write_text(
        "from .. import near\ndef own(pixels, coordinates):\n    return near.two\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


@pytest.mark.parametrize("named", ["mine.deep.stats:own", "mine:one"])
def test_all_that_a_function_imports_from_beside_it_is_its_code(package: Path, named: str) -> None:
    before = [own.code_digest(named)]
    changed = ["mine/outer.py", "mine/__init__.py"]
    if "deep" in named:
        changed += ["mine/near.py", "mine/deep/__init__.py", "mine/deep/stats.py"]
    for file in changed:
        (package / file).write_text((package / file).read_text() + "# changed\n")
        before.append(own.code_digest(named))
    assert len(set(before)) == len(before)


def test_modules_that_are_no_python_or_another_one_are_told(package: Path) -> None:
    (package / "broken.py").write_text("def own(:\n")
    # Python has a module of this name.
    (package / "fractions.py").write_text("def gcd(pixels, coordinates):\n    return 1\n")
    with pytest.raises(hc.InputError, match=r"broken\.py is no Python that can be read"):
        own.code_digest("broken:own")
    with pytest.raises(hc.InputError, match=r"Python has another module fractions, .*: rename"):
        own.load("fractions:gcd")


def test_channels_that_are_not_there_are_refused_before_anything_is_read() -> None:
    with pytest.raises(hc.InputError, match="the image has no channel 'DAPI'"):
        found(tissue("u2"), stats=hc.pearson_corr_coeff([("0", "DAPI")]))
    with pytest.raises(hc.InputError, match="needs pairs of channels"):
        found(tissue("u2"), stats="pearson_corr_coeff")


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda: hc.radial_mean(0), "rings = 0: give 1 to 999"),
        (lambda: hc.radial_mean(2.5), "rings = 2.5: give 1 to 999"),
        (lambda: hc.pearson_corr_coeff([]), "pearson_corr_coeff needs pairs of channels"),
        (lambda: hc.pearson_corr_coeff(["ab"]), r"pairs = \[\('ab',\)\]: give two different"),
        (lambda: hc.manders_overlap_coeff([("a", "a")]), "give two different channels each"),
        (lambda: hc.manders_coloc_coeff(PAIR, {"0": 1}), "channel '1' has no threshold"),
    ],
)
def test_parameters_that_make_no_sense_are_told_in_one_line(ask: Any, told: str) -> None:
    with pytest.raises(hc.InputError, match=told) as error:
        ask()
    assert "\n" not in str(error.value)


def test_large_instances_are_kept_where_their_places_are_needed_or_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(whole, "HELD_BYTES", 56 * 4 * 3)
    found(tissue("u1"), "zarr", "edge_mean")
    with pytest.raises(hc.InputError, match="edge_mean would hold"):
        found(tissue("f8"), "zarr", "edge_mean")
