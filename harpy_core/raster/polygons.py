"""Labels given as polygons: runs are made of them tile by tile, never a mask.

Polygons may overlap: a pixel belongs to every polygon that its centre lies in.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from harpy_core.errors import InputError
from harpy_core.raster.views import window
from harpy_core.tiles.grid import Region, regular_edges
from harpy_core.tiles.labels import checked_labels
from harpy_core.tiles.runs import RunTable

TILE = 2048
"""Side of the tiles of a job on polygons alone."""


class PolygonLabels:
    """Polygons in place of a label image; `polygon_labels` and `read_polygons` make them.

    Attributes
    ----------
    id : (polygons,) uint64
        Label of each.
    x, y : (vertices,) float64
        Corners in pixels of the image, whose first pixel reaches from 0 to 1, ring after ring.
    ring : (rings + 1,) int64
        Index of each ring's first corner, and the end.
    begin : (polygons + 1,) int64
        Index of each polygon's first ring, and the end.
    shape
        Pixels of the image along y and x.
    """

    ndim = 2
    dtype = np.dtype(np.uint64)
    chunks = (TILE, TILE)

    def __init__(
        self,
        id: np.ndarray,
        x: np.ndarray,
        y: np.ndarray,
        ring: np.ndarray,
        begin: np.ndarray,
        shape: tuple[int, int],
    ) -> None:
        self.id, self.x, self.y, self.ring, self.begin = id, x, y, ring, begin
        self.shape = shape

    def __len__(self) -> int:
        return len(self.id)

    def facts(self) -> list[Any]:
        """Return what identifies them."""
        content = hashlib.sha256()
        for column in (self.id, self.x, self.y, self.ring, self.begin):
            content.update(np.ascontiguousarray(column).view(np.uint8).data)
        return ["polygons", list(self.shape), content.hexdigest()]

    def at(self, polygons: np.ndarray) -> PolygonLabels:
        """Return some of them, in that order."""
        rings = _within(self.begin, polygons)
        corners = _within(self.ring, rings)
        return PolygonLabels(
            self.id[polygons],
            self.x[corners],
            self.y[corners],
            _offsets(np.diff(self.ring)[rings]),
            _offsets(np.diff(self.begin)[polygons]),
            self.shape,
        )

    @property
    def bounds(self) -> np.ndarray:
        """Smallest x and y of each polygon, then the largest, (polygons, 4); NaN without any."""
        first = self.ring[self.begin[:-1]]
        there = np.diff(self.ring[self.begin]) > 0
        found = np.full((len(self), 4), np.nan)
        for column, (values, least) in enumerate(
            ((self.x, np.minimum), (self.y, np.minimum), (self.x, np.maximum), (self.y, np.maximum))
        ):
            if there.any():
                found[there, column] = least.reduceat(values, first[there])
        return found

    def __getitem__(self, key: Any) -> np.ndarray:
        return window(PolygonReader(self), key, self.shape)

    def moved(self, matrix: np.ndarray) -> PolygonLabels:
        """Return them with their corners moved.

        Parameters
        ----------
        matrix : (4, 4) float64
            From places z, y and x to others.
        """
        x = matrix[2, 2] * self.x + matrix[2, 1] * self.y + matrix[2, 3]
        y = matrix[1, 2] * self.x + matrix[1, 1] * self.y + matrix[1, 3]
        return PolygonLabels(self.id, x, y, self.ring, self.begin, self.shape)


def _offsets(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def _within(begin: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Indices of the parts of some wholes."""
    size = np.diff(begin)[chosen]
    start = np.repeat(begin[:-1][chosen], size)
    return start + np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)


class PolygonReader:
    """Reader of polygons: their runs, or labels in which the last of those that overlap is seen."""

    def __init__(self, polygons: PolygonLabels) -> None:
        self._polygons = polygons
        self._bounds = polygons.bounds
        self.dtype = polygons.dtype
        self.shape: tuple[int, ...] = (1, *polygons.shape)
        self.edges = regular_edges(self.shape, (1, TILE, TILE))

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self._polygons,)

    def layout(self, region: Region) -> tuple[int, ...]:
        """Shape of the region itself."""
        return tuple(b - a for a, b in region)

    def read(self, region: Region, out: np.ndarray) -> Sequence[Any]:
        """Paint the polygons of a region."""
        out[...] = 0
        (row, _), (column, _) = region[1:]
        some = self._in(region)
        for polygon, y, x, length in self._scanned(some, region).tolist():
            out[0, y - row, x - column : x - column + length] = some.id[polygon]
        return ()

    def runs(self, region: Region, row_stride: int, plane_stride: int) -> RunTable:
        """Return the runs of a region, in planes of these strides."""
        some = self._in(region)
        polygon, y, x, length = self._scanned(some, region).T
        slots, slot = np.unique(polygon, return_inverse=True)
        start = (y - region[1][0]) * row_stride + x - region[2][0]
        order = np.argsort(start, kind="stable")
        return RunTable(
            start[order],
            length[order].astype(np.int32),
            slot.reshape(-1)[order].astype(np.int32),
            some.id[slots],
            row_stride,
            plane_stride,
        )

    def stored(self, region: Region) -> None:
        """Return None: nothing is encoded here."""

    def detach(self, region: Region) -> PolygonReader:
        """Return a reader of the polygons that reach into the region."""
        return PolygonReader(self._in(region))

    def _in(self, region: Region) -> PolygonLabels:
        (top, bottom), (left, right) = region[1:]
        low_x, low_y, high_x, high_y = self._bounds.T
        there = (low_x < right) & (high_x > left) & (low_y < bottom) & (high_y > top)
        return self._polygons.at(np.flatnonzero(there))

    def _scanned(self, some: PolygonLabels, region: Region) -> np.ndarray:
        from harpy_core.kernels.scan import scanned

        return scanned(some.x, some.y, some.ring, some.begin, region[1], region[2])


def polygon_labels(
    polygons: Any,
    shape: Sequence[int],
    ids: Sequence[int] | np.ndarray | None = None,
    *,
    scale: float | Sequence[float] = 1.0,
    translation: Sequence[float] = (0.0, 0.0),
) -> PolygonLabels:
    """Labels of an image, given as polygons.

    A pixel belongs to a polygon if its centre lies inside an odd number of the polygon's rings, so
    that inner rings are holes. Polygons may overlap. One in which no centre lies is no instance.
    Labels that are made of these (`expand_labels`, `label_rings`, `subtract_labels`) give a pixel
    of several polygons to the last.

    Parameters
    ----------
    polygons
        Polygons in order: each an array (corners, 2) of x and y, a list of such rings, or a Polygon
        or MultiPolygon of shapely; or a GeoDataFrame, as SpatialData has shapes.
    shape
        Pixels of the image along y and x.
    ids
        Label of each; None numbers them from 1.
    scale, translation
        A corner is at ``x * scale + translation`` in pixels, the first of which reaches from 0 to
        1; two numbers are along x and y. A negative scale flips.

    Returns
    -------
    PolygonLabels
        Labels that `harpy_core.aggregate_stats`, `harpy_core.extract_instances` and
        `harpy_core.find_instances` take.

    Raises
    ------
    InputError
        One of them is no polygon, a ring has fewer than three corners or one that is no number, or
        there are not as many labels as polygons, or two of the same; or the shape, the scale or the
        translation is no pair of numbers.
    """
    plane, factor, shift = _checked_place(shape, scale, translation)
    column = getattr(polygons, "geometry", polygons)
    if isinstance(getattr(column, "geom_type", None), str):
        raise InputError(f"polygons: one {column.geom_type}: give a list of polygons")
    given = list(column)
    rings = [_rings_of(number, one) for number, one in enumerate(given)]
    for number, parts in enumerate(rings):
        for part in parts:
            if part.ndim != 2 or part.shape[1] < 2 or len(part) < 3 or not np.isfinite(part).all():
                raise InputError(
                    f"polygons: a ring of polygon {number} is no array of three or more corners "
                    "(x, y); correct it or leave it out"
                )
    labels = np.arange(1, len(given) + 1, dtype=np.uint64)
    if ids is not None:
        labels = checked_labels(np.asarray(ids), "ids")
        if len(labels) != len(given) or len(np.unique(labels)) != len(labels):
            raise InputError(
                f"ids: {len(np.unique(labels)):,} different labels for {len(given):,} polygons; "
                "give each one of its own"
            )
    corners = [part[:, :2] for parts in rings for part in parts]
    places = np.concatenate([np.empty((0, 2)), *corners]) * factor + shift
    return PolygonLabels(
        labels,
        np.ascontiguousarray(places[:, 0]),
        np.ascontiguousarray(places[:, 1]),
        _offsets(np.array([len(part) for part in corners], np.int64)),
        _offsets(np.array([len(parts) for parts in rings], np.int64)),
        plane,
    )


def _checked_place(
    shape: Any, scale: Any, translation: Any
) -> tuple[tuple[int, int], np.ndarray, np.ndarray]:
    sides = np.ravel(shape)
    if len(sides) != 2:
        raise InputError(f"shape = {shape}: give the image's pixels along y and x")
    factor, shift = np.asarray(scale, np.float64), np.asarray(translation, np.float64)
    for name, value, given in (("scale", factor, scale), ("translation", shift, translation)):
        if value.shape not in ((), (2,)) or not np.isfinite(value).all():
            raise InputError(f"{name} = {given}: give a number, or two, along x and y")
    if not factor.all():
        raise InputError(f"scale = {scale}: 0 leaves nothing of a polygon; give another number")
    return (int(sides[0]), int(sides[1])), factor, shift


def _rings_of(number: int, polygon: Any) -> list[np.ndarray]:
    """Rings of a polygon.

    Raises
    ------
    InputError
        It is something else.
    """
    try:
        return list(_rings(polygon))
    except (TypeError, ValueError) as error:
        kind = getattr(polygon, "geom_type", type(polygon).__name__)
        circle = "; of a circle give .buffer(radius)" if kind == "Point" else ""
        raise InputError(
            f"polygons: polygon {number} is no polygon, but of type {kind}: leave it out{circle}"
        ) from error


def _rings(polygon: Any) -> Iterator[np.ndarray]:
    """Yield the rings of a polygon, outer and inner ones alike."""
    if hasattr(polygon, "geoms"):
        for part in polygon.geoms:
            yield from _rings(part)
    elif hasattr(polygon, "exterior"):
        yield np.asarray(polygon.exterior.coords, np.float64)
        for inner in polygon.interiors:
            yield np.asarray(inner.coords, np.float64)
    elif isinstance(polygon, np.ndarray) and polygon.dtype != object:
        yield polygon.astype(np.float64)
    else:
        for ring in polygon:
            yield np.asarray(ring, np.float64)


def read_polygons(
    path: str | os.PathLike[str],
    shape: Sequence[int],
    *,
    scale: float | Sequence[float] = 1.0,
    translation: Sequence[float] = (0.0, 0.0),
) -> PolygonLabels:
    """Read polygons from a file, as labels of an image.

    Parameters
    ----------
    path
        GeoJSON, such as QuPath exports: a FeatureCollection, a list of features, or a feature;
        what is neither a Polygon nor a MultiPolygon is left out. Or GeoParquet (``.parquet``), such
        as ``shapes/cells/shapes.parquet`` of a SpatialData store, or Xenium's
        ``cell_boundaries.parquet``, which need geopandas.
        Labels are 1, 2, … in the order of the file.
    shape, scale, translation
        See `polygon_labels`.

    Returns
    -------
    PolygonLabels

    Raises
    ------
    InputError
        The file is not there, is of another kind, or has no polygon; or geopandas is missing.
    """
    if os.fspath(path).lower().endswith(".parquet"):
        return polygon_labels(_of_parquet(path), shape, scale=scale, translation=translation)
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        found = [list(_of_geometry(one)) for one in _geometries(content)]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: cannot be read as GeoJSON ({error}); export it again") from error
    if not found:
        raise InputError(f"{path}: there is no polygon in it; export cells as polygons")
    return polygon_labels(found, shape, scale=scale, translation=translation)


def _of_parquet(path: str | os.PathLike[str]) -> Any:
    try:
        import geopandas
    except ImportError as error:
        raise InputError(
            f"{path}: GeoParquet needs geopandas: pip install 'harpy-core[spatialdata]'"
        ) from error
    try:
        if _is_of_corners(path):
            return _of_corners(path)
        return geopandas.read_parquet(path)
    except (OSError, ValueError) as error:
        told = f"cannot be read as GeoParquet ({' '.join(str(error).split())})"
        raise InputError(f"{path}: {told}; export it again") from error


def _is_of_corners(path: str | os.PathLike[str]) -> bool:
    """Whether a table has a row for each corner, as Xenium's cell_boundaries."""
    from pyarrow import parquet

    return {"cell_id", "vertex_x", "vertex_y"} <= set(parquet.read_schema(path).names)


def _of_corners(path: str | os.PathLike[str]) -> list[np.ndarray]:
    """Polygons of a table of corners; those of one follow each other."""
    from pyarrow import parquet

    table = parquet.read_table(path, columns=["cell_id", "vertex_x", "vertex_y"])
    number = table["cell_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    corners = np.stack([table[name].to_numpy() for name in ("vertex_x", "vertex_y")], axis=1)
    return np.split(corners.astype(np.float64), np.flatnonzero(np.diff(number)) + 1)


def _geometries(content: Any) -> Iterator[Any]:
    features = content
    if isinstance(content, dict):
        features = content.get("features", [content])
    for feature in features:
        geometry = feature.get("geometry", feature)
        if geometry and geometry["type"] in ("Polygon", "MultiPolygon"):
            yield geometry


def _of_geometry(geometry: Any) -> Iterable[np.ndarray]:
    parts = geometry["coordinates"]
    for rings in parts if geometry["type"] == "MultiPolygon" else [parts]:
        for ring in rings:
            yield np.asarray(ring, np.float64)
