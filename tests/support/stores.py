"""Small stores and TIFFs of every kind that people bring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr

from harpy_core.planning import inspection, preflight

NAMES = ["DAPI", "CD3", "CD20"]


def pixels(shape: tuple[int, ...] = (3, 40, 50)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 60_000, shape).astype("u2")


def cells(shape: tuple[int, ...] = (40, 50)) -> np.ndarray:
    labels = np.zeros(shape, "u4")
    labels[..., 3:12, 5:20] = 7
    labels[..., 30:, 44:] = 9
    return labels


def scales(axes: str, path: str, size: float = 1.0, **more: Any) -> list[dict[str, Any]]:
    """NGFF multiscales with two levels, the finer one first."""
    names = {"t": "time", "c": "channel", **dict.fromkeys("zyx", "space")}
    levels = [
        {
            "path": name,
            "coordinateTransformations": [
                {"type": "scale", "scale": [1.0 if a in "tc" else factor * size for a in axes]}
            ],
        }
        for name, factor in ((path, 1), ("coarse", 2))
    ]
    return [{"axes": [{"name": a, "type": names.get(a)} for a in axes], "datasets": levels, **more}]


def omero() -> dict[str, Any]:
    return {"channels": [{"label": name, "color": "00FF00"} for name in NAMES]}


def ngff(root: zarr.Group, name: str, values: np.ndarray, axes: str, version: str) -> zarr.Group:
    """An OME-Zarr image or labels, whose first level has a name of its own."""
    group = root.require_group(name) if name else root
    chunks = (1,) * (values.ndim - 2) + (16, 16)
    group.create_array("fine", data=values, chunks=chunks)
    group.create_array("coarse", data=values[..., ::2, ::2], chunks=chunks)
    metadata: dict[str, Any] = {"multiscales": scales(axes, "fine", version=version)}
    if "c" in axes and values.shape[axes.index("c")] == len(NAMES):
        metadata["omero"] = omero()
    group.attrs.update({"ome": metadata} if version == "0.5" else metadata)
    return group


def ome_zarr(path: Any, version: str, axes: str = "yx") -> None:
    """An image at the root of a store, its labels below ``labels``."""
    root = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    shape = {"yx": (40, 50), "zyx": (4, 40, 50)}[axes]
    ngff(root, "", pixels((3, *shape)), f"c{axes}", version)
    ngff(root, "labels/cells", cells(shape), axes, version)


def plain(path: Path) -> zarr.Group:
    """Plain arrays in a group."""
    group = zarr.open_group(path, mode="w")
    group.create_array("raw/image", data=pixels(), chunks=(1, 16, 16))
    group.create_array("raw/volume", data=pixels((3, 4, 40, 50)), chunks=(1, 2, 16, 16))
    group.create_array("cells", data=cells(), chunks=(20, 25))
    group.create_array("solid", data=cells((4, 40, 50)), chunks=(1, 20, 25))
    group.create_array("floats", data=cells().astype("f4") / 2)
    group.create_array("small", data=cells()[:30])
    group.create_group("empty")
    return group


def tiffs(folder: Path, **options: Any) -> tuple[str, str]:
    """An OME-TIFF and a label TIFF beside it."""
    image, labels = folder / "image.ome.tif", folder / "labels.tif"
    metadata = {"axes": "CYX", "Channel": {"Name": NAMES}}
    tifffile.imwrite(image, pixels(), photometric="minisblack", metadata=metadata, **options)
    tifffile.imwrite(labels, cells(), **options)
    return str(image), str(labels)


def assert_is_whole(raster: Any, names: list[str] | None = None) -> None:
    np.testing.assert_array_equal(np.asarray(raster.image[...]), pixels(raster.image.shape))
    np.testing.assert_array_equal(np.asarray(raster.labels[...]), cells(raster.labels.shape))
    assert raster.channels == (names or NAMES)


def assert_is_coarse(raster: Any) -> None:
    np.testing.assert_array_equal(raster.image[...], pixels()[:, ::2, ::2])
    np.testing.assert_array_equal(raster.labels[...], cells()[::2, ::2])


def assert_passes_the_check(uri: Any, **keys: Any) -> None:
    """The check before a run, and that of the rule `check`, find nothing wrong."""
    source = {"uri": str(uri), **keys}
    config = preflight.checked({"cases": {"c": {"source": source}}}, "f.yaml")
    text, problems = inspection.inspect(config)
    assert not problems, text
