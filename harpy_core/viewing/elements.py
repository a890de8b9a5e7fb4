"""Elements of a store that is shown: OME-Zarr of levels, and an AnnData table of a layer's rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harpy_core.viewing.fields import Measured
from harpy_core.viewing.levels import Levels
from harpy_core.viewing.stores import MadeStore

MOST_VALUES = 2**24
"""Values of a heat map, at most: a browser holds them all."""


def add_image(
    store: MadeStore,
    path: str,
    levels: Levels,
    channels: Sequence[str],
    windows: Mapping[int, tuple[float, float]],
    pixel: tuple[float, float],
) -> None:
    """Add an image.

    Parameters
    ----------
    channels
        Names of its channels.
    windows
        Values shown black and white, of some channels by number.
    pixel
        Side of a pixel along y and x.
    """
    named: list[dict[str, Any]] = [{"label": name, "color": "FFFFFF"} for name in channels]
    for number, (low, high) in windows.items():
        named[number]["window"] = {"start": low, "end": high, "min": low, "max": high}
    _add_levels(store, path, levels, pixel, {"omero": {"channels": named}})


def add_labels(store: MadeStore, path: str, levels: Levels, pixel: tuple[float, float]) -> None:
    """Add labels, whose pixels have a side along y and x."""
    _add_levels(store, path, levels, pixel, {"image-label": {}})


def _add_levels(
    store: MadeStore,
    path: str,
    levels: Levels,
    pixel: tuple[float, float],
    metadata: Mapping[str, Any],
) -> None:
    """Add a group as OME-Zarr 0.5 describes it, with an array for each level."""
    before = () if levels.channels is None else (levels.channels,)
    axes: list[dict[str, str]] = (
        [] if levels.channels is None else [{"name": "c", "type": "channel"}]
    )
    axes += [{"name": name, "type": "space"} for name in "yx"]
    datasets = []
    for number, shape in enumerate(levels.shapes):
        scale = [*(1.0 for _ in before), *(side * 2**number for side in pixel)]
        datasets.append(
            {
                "path": str(number),
                "coordinateTransformations": [{"type": "scale", "scale": scale}],
            }
        )

        def tile(index: tuple[int, ...], number: int = number) -> np.ndarray | None:
            *channel, row, column = index
            found = levels.tile(number, channel[0] if channel else 0, row, column)
            return found[np.newaxis] if channel and found is not None else found

        chunks = (*(1 for _ in before), levels.side, levels.side)
        store.add(f"{path}/{number}", (*before, *shape), chunks, levels.dtype, tile)
    ome = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}], **metadata}
    store.root[path].attrs["ome"] = ome


def add_table(store: MadeStore, path: str, measured: Measured, pair: Sequence[int]) -> None:
    """Add a table: the first statistic of each instance, by its label.

    Its arrays are ``X``, (instances, channels), and ``obsm/scatter``, (instances, 2); columns of
    ``obs`` are its categories.

    Parameters
    ----------
    pair
        Numbers of two channels to draw against each other, each from its 0.5th to its 99.5th
        percentile, as 0 to 1; none draws the centroids, as a share of the field's longer side.
    """
    values = _values(measured)
    names = {"obs": measured.ids.astype(str), "var": np.array(measured.channels)}
    group = store.root.create_group(path, attributes=_encoded("anndata", "0.1.0"))
    for axis, index in names.items():
        columns = measured.sets if axis == "obs" else {}
        frame = {"_index": "_index", "column-order": [*columns]}
        group.create_group(axis, attributes={**_encoded("dataframe", "0.2.0"), **frame})
        for name, column in {"_index": index, **columns}.items():
            group.create_array(
                f"{axis}/{name}",
                shape=column.shape,
                chunks=column.shape,
                dtype=str,
                attributes=_encoded("string-array", "0.2.0"),
            )[...] = column.astype(object)

    def of_channel(index: tuple[int, ...]) -> np.ndarray:
        return _column(values, measured, index[1])[:, np.newaxis]

    shape, dtype = tuple(map(len, names.values())), np.dtype("f4")
    array = _encoded("array", "0.2.0")
    store.add(f"{path}/X", shape, (shape[0], 1), dtype, of_channel, array)
    drawn = [_scaled(_column(values, measured, channel)) for channel in pair]
    x, y = measured.centroids.T / np.max(measured.centroids)
    # Vitessce draws the second axis upwards.
    scatter = np.stack(drawn or [x, -y], axis=1).astype(dtype)
    group.create_group("obsm", attributes=_encoded("dict", "0.1.0"))
    store.add(f"{path}/obsm/scatter", scatter.shape, scatter.shape, dtype, lambda _: scatter, array)


def is_held(measured: Measured) -> bool:
    """Whether all values of the first statistic are held in memory, here and in a browser."""
    return len(measured.ids) * len(measured.channels) <= MOST_VALUES


def _values(measured: Measured) -> Any:
    """First statistic, (rows, channels): of few values in memory, where a column is soon taken."""
    statistic = next(iter(measured.statistics.values()))
    return np.asarray(statistic[...]) if is_held(measured) else statistic


def _column(values: Any, measured: Measured, channel: int) -> np.ndarray:
    return np.asarray(values[:, channel])[measured.rows]


def _scaled(column: np.ndarray) -> np.ndarray:
    finite = column[np.isfinite(column)]
    low, high = np.percentile(finite, [0.5, 99.5]) if finite.size else (0.0, 1.0)
    return np.nan_to_num((column - low) / max(high - low, 1e-12))


def _encoded(kind: str, version: str) -> dict[str, Any]:
    """Attributes by which anndata knows an element."""
    return {"encoding-type": kind, "encoding-version": version}
