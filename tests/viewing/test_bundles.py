"""Vitessce's scripts, out of what npm packs."""

from __future__ import annotations

from pathlib import Path

import pytest
from page_servers import PACKAGES, pack, packed

from harpy_core.errors import InputError
from harpy_core.viewing.bundles import PACKED, read_bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return packed(tmp_path)


def test_the_scripts_of_a_page_are_read(folder: Path) -> None:
    assert read_bundle(folder) == {
        "vitessce/index.min.js": b"dist/index.min.js",
        "vitessce/index-x1_-.js": b"dist/index-x1_-.js",
        "react/react.production.min.js": b"umd/react.production.min.js",
        "react-dom/react-dom.production.min.js": b"umd/react-dom.production.min.js",
    }


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_that_is_missing_double_or_damaged_is_refused(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()

    def refused(told: str) -> None:
        with pytest.raises(InputError) as error:
            read_bundle(folder)
        assert told in str(error.value)
        assert str(error.value).endswith(PACKED)
        assert "\n" not in str(error.value)

    (folder / name).write_bytes(content[: len(content) // 2])
    refused("damaged")
    pack(folder / name, ["README.md"])
    refused("holds no ")
    (folder / name).unlink()
    refused(f"no {name.rsplit('.', 3)[0]}")
    (folder / name.replace(".tgz", "-beta.tgz")).write_bytes(content)
    refused(f"no {name.rsplit('.', 3)[0]}")
    for version in ("9.1", "10.0"):
        (folder / f"{name.rsplit('.', 3)[0]}.{version}.tgz").write_bytes(content)
    refused("several, ")


def test_another_major_version_is_refused(folder: Path) -> None:
    (folder / "react-18.3.1.tgz").rename(folder / "react-19.0.0.tgz")
    with pytest.raises(InputError, match="no react-18"):
        read_bundle(folder)
