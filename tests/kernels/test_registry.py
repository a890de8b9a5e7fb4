"""Engines: what there is, what asking costs, and what adding one takes."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import harpy_core as hc
from harpy_core.kernels import registry


def in_fresh_process(code: str) -> str:
    """Return what a program prints."""
    call = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(call, capture_output=True, text=True, check=True).stdout


def test_engines_are_listed_without_importing_any() -> None:
    heavy = in_fresh_process("""
        import sys
        from harpy_core.kernels import registry
        assert len(registry.ENGINES) >= 3
        print([name for name in ("numpy", "numba", "cupy", "dask") if name in sys.modules])
    """)
    assert heavy == "[]\n"


def test_the_engine_numpy_does_without_numba(tmp_path: Path) -> None:
    found = in_fresh_process(f"""
        import sys
        import numpy as np
        import harpy_core as hc
        labels = np.kron(np.arange(1, 10, dtype="u4").reshape(3, 3), np.ones((4, 4), "u4"))
        image = np.ones((2, 12, 12), "u2")
        table = hc.aggregate_stats(image, labels, ("mean", "std"), engine="numpy")
        crops = hc.extract_instances(image, labels, {str(tmp_path / "crops")!r}, engine="numpy")
        print(len(table), len(crops), "numba" in sys.modules)
    """)
    assert found == "9 9 False\n"


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An engine of one file and one line."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "kernels_of_mine.py").write_text(
        "from harpy_core.kernels.reference import *\n"
        "from harpy_core.kernels import reference\n"
        "calls = []\n"
        "def reduce(planes, *arguments):\n"
        "    calls.append('reduce')\n"
        "    return reference.reduce(planes, *arguments)\n"
        "def gather(planes, *arguments):\n"
        "    calls.append('gather')\n"
        "    return reference.gather(planes, *arguments)\n"
    )
    registry.register(registry.Engine("mine", "kernels_of_mine"))
    yield "mine"
    del registry.ENGINES["mine"], sys.modules["kernels_of_mine"]


def test_an_engine_is_added_by_a_file_and_a_line(added: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.kron(np.arange(1, 26, dtype="u4").reshape(5, 5), np.ones((9, 7), "u4"))
    image = rng.integers(0, 1000, (3, *labels.shape), dtype=np.uint16)
    table = hc.aggregate_stats(image, labels, ("mean", "count"), engine=added)
    assert table.uns["harpy_core"]["engine"] == added
    crops = hc.extract_instances(image, labels, tmp_path / "crops", diameter=9, engine=added)
    assert set(sys.modules["kernels_of_mine"].calls) == {"reduce", "gather"}
    plain = hc.aggregate_stats(image, labels, ("mean", "count"), engine="numpy")
    for name in ("mean", "count"):
        np.testing.assert_array_equal(table.layers[name], plain.layers[name])
    expected = hc.extract_instances(image, labels, tmp_path / "n", diameter=9, engine="numpy")
    np.testing.assert_array_equal(crops.image[...], expected.image[...])


def test_a_name_is_given_once() -> None:
    for taken in ("auto", "numpy"):
        with pytest.raises(ValueError, match=f"'{taken}' is an engine already"):
            registry.register(registry.Engine(taken, "harpy_core.kernels.reference"))


@pytest.fixture
def partly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An engine with one function of its own."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "sums_of_mine.py").write_text(
        "from harpy_core.kernels import reference\n"
        "calls = []\n"
        "def reduce(planes, *arguments):\n"
        "    calls.append('reduce')\n"
        "    return reference.reduce(planes, *arguments)\n"
    )
    registry.register(registry.Engine("partly", "sums_of_mine"))
    yield "partly"
    del registry.ENGINES["partly"], sys.modules["sums_of_mine"]


def test_what_an_engine_lacks_is_the_references_and_said_once(
    partly: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    labels = np.kron(np.arange(1, 26, dtype="u4").reshape(5, 5), np.ones((9, 7), "u4"))
    image = rng.integers(0, 1000, (3, *labels.shape), dtype=np.uint16)
    stats = ("mean", "std", "median")
    with caplog.at_level("INFO", "harpy_core"):
        table = hc.aggregate_stats(image, labels, stats, engine=partly)
        crops = hc.extract_instances(image, labels, tmp_path / "a", diameter=9, engine=partly)
    assert sys.modules["sums_of_mine"].calls
    told = [record.message for record in caplog.records if record.message.startswith("engine part")]
    assert told == [
        "engine partly: LabelIndex, encode, geometry, powers, by_slot, collect, order_statistics, "
        "sum_by, edge, count_all, count_runs, gather, samples, interpolate, second_moments, "
        "borders, hulls, holes, contacts, overlaps of numpy"
    ]
    plain = hc.aggregate_stats(image, labels, stats, engine="numpy")
    for name in stats:
        np.testing.assert_array_equal(table.layers[name], plain.layers[name])
    expected = hc.extract_instances(image, labels, tmp_path / "n", diameter=9, engine="numpy")
    np.testing.assert_array_equal(crops.image[...], expected.image[...])


def test_the_engine_of_gpus_has_its_order_statistics_on_the_processor() -> None:
    from harpy_core.kernels import compiled, gpu

    assert not hasattr(gpu, "order_statistics")
    kernels = registry.ENGINES["cupy"].load()
    assert kernels.order_statistics is compiled.order_statistics
    assert kernels.reduce is gpu.reduce


@pytest.mark.parametrize("name", registry.ENGINES)
def test_an_engine_has_all_functions_of_the_reference(name: str) -> None:
    kernels = registry.ENGINES[name].load()
    assert all(callable(getattr(kernels, function)) for function in registry.FUNCTIONS)


def test_what_jobs_ask_of_an_engine_is_listed() -> None:
    asked = set()
    for file in Path(hc.__file__).parent.rglob("*.py"):
        asked |= set(re.findall(r"kernels(?:_of\(.*\))?\.(\w+)\(", file.read_text()))
    assert asked == set(registry.FUNCTIONS)
