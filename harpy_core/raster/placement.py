"""Placement of elements: the coordinate transformations of NGFF and SpatialData, as matrices.

It defines when image and labels lie on each other. Finding the arrays is up to `opening`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

_FRAME = ("c", "z", "y", "x")
_SYSTEM = "global"
"""SpatialData's name of the coordinate system that NGFF leaves without one."""

_RELATIVE = 1e-6
_PIXELS = 1e-3
"""Largest distance of a scale from 1, and a shift from 0 pixels, due to rounded units."""

Placement = Mapping[str, "np.ndarray | str"]
"""Homogeneous matrix from pixels (c, z, y, x) to each coordinate system, or the type of a
transformation that is not a matrix."""


class _NoMatrixError(Exception):
    """A transformation of this type is not a matrix."""


def placement(
    scales: Mapping[str, Any], level: Mapping[str, Any], axes: Sequence[str]
) -> Placement:
    """Place a level of a multiscale in each of its coordinate systems.

    Parameters
    ----------
    scales
        Entry of NGFF's ``multiscales``.
    level
        Entry of its ``datasets``.
    axes
        Names of the axes.
    """
    given = scales.get("coordinateTransformations") or []
    # NGFF: a chain for the whole multiscale. SpatialData: one for each coordinate system.
    chain = [step for step in given if not _system(step)]
    ends: dict[str, list[Any]] = {_system(s): [*chain, s] for s in given if _system(s)}
    own = level.get("coordinateTransformations") or []
    found: dict[str, np.ndarray | str] = {}
    for system, steps in (ends or {_SYSTEM: chain}).items():
        try:
            found[system] = _composed([*own, *steps], axes)
        except _NoMatrixError as error:
            found[system] = str(error)
    return found


def difference(image: Placement, labels: Placement, axes: Iterable[str]) -> str | None:
    """Describe how labels lie against their image; None if they lie on it.

    Parameters
    ----------
    image, labels
        Placement of each.
    axes
        Names of the axes that both have.
    """
    shared = sorted(set(image) & set(labels))
    if not shared:
        return f"they share no coordinate system ({_listed(image)} against {_listed(labels)})"
    kept = [_FRAME.index(axis) for axis in axes if axis in _FRAME[1:]]
    for system in shared:
        told = _relative(image[system], labels[system], kept)
        if told is not None:
            return f"{told} in the coordinate system {system!r}"
    return None


def relation(image: Placement, labels: Placement, axes: Iterable[str]) -> np.ndarray | None:
    """Matrix (4, 4) from places z, y and x in the labels to those in the image, over some axes.

    None if it is not the same in all coordinate systems that both have, or is no matrix, or one
    without an inverse.
    """
    kept = [_FRAME.index(axis) for axis in axes if axis in _FRAME[1:]]
    found: np.ndarray | None = None
    for system in sorted(set(image) & set(labels)):
        try:
            pixels = np.linalg.solve(_numbers_of(image[system]), _numbers_of(labels[system]))
        except (np.linalg.LinAlgError, _NoMatrixError):
            return None
        matrix = np.eye(4)
        places = [axis - 1 for axis in kept]
        matrix[np.ix_(places, places)] = pixels[np.ix_(kept, kept)]
        matrix[places, -1] = pixels[kept, -1]
        if np.linalg.matrix_rank(matrix) < 4:
            return None
        if found is not None and not np.allclose(found, matrix, rtol=_RELATIVE, atol=_PIXELS):
            return None
        found = matrix
    return found


def _numbers_of(placed: np.ndarray | str) -> np.ndarray:
    if isinstance(placed, str):
        raise _NoMatrixError(placed)
    return placed


def _listed(placed: Placement) -> str:
    return ", ".join(sorted(placed))


def _relative(image: np.ndarray | str, labels: np.ndarray | str, kept: list[int]) -> str | None:
    for given in (image, labels):
        if isinstance(given, str):
            return f"a transformation of type {given}, which is not understood,"
    try:
        pixels = np.linalg.solve(np.asarray(image), np.asarray(labels))
    except np.linalg.LinAlgError:
        return "a transformation that has no inverse"
    linear, shift = pixels[np.ix_(kept, kept)], pixels[kept, -1]
    scale = np.diagonal(linear)
    if np.abs(linear - np.diag(scale)).max() > _RELATIVE:
        return "rotated, sheared or flipped"
    names = [_FRAME[axis] for axis in kept]
    if np.abs(scale - 1).max() > _RELATIVE:
        return f"scaled by {_numbers(names, scale)}"
    if np.abs(shift).max() > _PIXELS:
        return f"shifted by {_numbers(names, shift)} pixels"
    return None


def _numbers(names: list[str], values: np.ndarray) -> str:
    return ", ".join(f"{name} {value:.6g}" for name, value in zip(names, values, strict=True))


def _system(step: Mapping[str, Any]) -> str:
    end = step.get("output")
    return str(end["name"]) if isinstance(end, dict) and "name" in end else ""


def _composed(steps: Iterable[Mapping[str, Any]], axes: Sequence[str]) -> np.ndarray:
    whole = np.eye(len(_FRAME) + 1)
    for step in steps:
        whole = _matrix(step, axes) @ whole
    return whole


def _matrix(step: Mapping[str, Any], axes: Sequence[str]) -> np.ndarray:
    """Homogeneous matrix of one transformation; axes that it does not name stay as they are."""
    kind = step.get("type", "")
    begins = _axes_of(step.get("input"), axes)
    ends = _axes_of(step.get("output"), begins)
    if kind == "identity":
        return np.eye(len(_FRAME) + 1)
    if kind == "sequence":
        return _composed(step["transformations"], begins)
    if kind == "mapAxis" and isinstance(step["mapAxis"], dict):
        columns = {out: {name: 1.0} for out, name in step["mapAxis"].items()}
        return _filled(columns, {})
    values = step.get(kind)
    if values is None:
        # It has a path instead of values, or a type of a later version.
        raise _NoMatrixError(kind)
    if kind == "scale":
        return _filled({a: {a: v} for a, v in zip(begins, values, strict=True)}, {})
    if kind == "translation":
        return _filled({}, dict(zip(begins, values, strict=True)))
    if kind in ("affine", "rotation"):
        rows = {
            a: dict(zip(begins, row, strict=False)) for a, row in zip(ends, values, strict=False)
        }
        last = {a: row[-1] for a, row in zip(ends, values, strict=False) if kind == "affine"}
        return _filled(rows, last)
    raise _NoMatrixError(kind)


def _filled(rows: Mapping[str, Mapping[str, float]], shifts: Mapping[str, float]) -> np.ndarray:
    matrix = np.eye(len(_FRAME) + 1)
    for end, row in rows.items():
        if end in _FRAME:
            matrix[_FRAME.index(end), :-1] = [row.get(axis, 0.0) for axis in _FRAME]
    for end, shift in shifts.items():
        if end in _FRAME:
            matrix[_FRAME.index(end), -1] = shift
    return matrix


def _axes_of(space: Any, otherwise: Sequence[str]) -> tuple[str, ...]:
    if isinstance(space, dict) and space.get("axes"):
        return tuple(str(axis["name"]) for axis in space["axes"])
    return tuple(otherwise)
