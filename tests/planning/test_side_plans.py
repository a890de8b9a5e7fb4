"""Memory of the rules that measure no image, against what their functions take."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import peak_of

from harpy_core import InputError, find_instances
from harpy_core.aggregate.fields import join_tables
from harpy_core.aggregate.slabs import ROWS
from harpy_core.aggregate.store import aggregate_to_store
from harpy_core.datasets import REGISTRY, tissue, unpacking
from harpy_core.datasets.limits import ENTRY_BYTES
from harpy_core.planning.side_plans import dataset_bytes, joined_bytes
from harpy_core.running.workers import PROCESS_BYTES


def test_joined_tables_take_what_is_planned(tmp_path: Path) -> None:
    labels = np.arange(1, 200 * 200 + 1, dtype="u4").reshape(200, 200)
    image = np.ones((3, *labels.shape), "u2")
    field = tmp_path / "field.zarr"
    aggregate_to_store(image, labels, field, find_instances(labels), ("mean", "max"))
    join_tables({"warm": field}, tmp_path / "warm.zarr")
    names = [f"a-field-{number}" for number in range(2)]
    took = peak_of(lambda: join_tables(dict.fromkeys(names, field), tmp_path / "joined.zarr"))
    planned = joined_bytes(2 * labels.size, len(image), ROWS) - PROCESS_BYTES
    assert took <= planned <= 2.5 * took


def test_a_data_set_that_is_made_takes_what_is_planned(tmp_path: Path) -> None:
    made = dataclasses.replace(REGISTRY["tissue"], shape=(4, 1024, 1024))
    drawn = tissue.Tissue(made.shape, made.seed, made.cells_per_megapixel or 0)
    tissue.write(tmp_path / "warm.zarr", dataclasses.replace(drawn, shape=(4, 64, 64)), (4, 64, 64))
    took = peak_of(lambda: tissue.write(tmp_path / "made.zarr", drawn, made.chunks))
    planned = dataset_bytes(made, 1) - PROCESS_BYTES
    assert took <= planned <= 2.5 * took


def zipped(path: Path, count: int) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            archive.writestr(f"sdata.zarr/images/image/s0/c/{number % 7}/{number}/0", b"")
    return path


def test_an_entry_of_an_archive_takes_what_is_planned(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "s.zip", 3000)

    def listed() -> Any:
        with zipfile.ZipFile(archive) as opened:
            return opened, unpacking._checked(opened, archive)

    # The least of several: what another thread of this process makes meanwhile counts too.
    took = min(peak_of(listed) for _ in range(3))
    assert took <= 3000 * ENTRY_BYTES <= 2.5 * took


def test_an_archive_of_more_files_than_are_planned_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "MOST_FILES", 2)
    with pytest.raises(InputError, match="3 entries; at most 2 are unpacked"):
        unpacking.unzip(zipped(tmp_path / "s.zip", 3), tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()
