"""Columns derived from two others: which instances belong together, and the arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harpy_core.aggregate.merging import Measured
from harpy_core.aggregate.parents import Parents
from harpy_core.errors import InputError
from harpy_core.statistics.asked import Asked
from harpy_core.statistics.derived import Derived, parsed


@dataclass(frozen=True, slots=True)
class DerivedColumn:
    """A derived column, and the layers that it takes.

    Attributes
    ----------
    declared
        Its declaration.
    first, second
        Numbers of the operands' layers.
    by_parent
        Whether an instance of the first layer is matched with that of its parent, rather than with
        that of its own label.
    """

    declared: Derived
    first: int
    second: int
    by_parent: bool

    def of(self, found: Sequence[Measured], parents: Sequence[Parents]) -> np.ndarray | None:
        """Return the column, a row for each instance of the first layer; None if none is measured.

        An instance that has no match, and what is divided by 0, is NaN.
        """
        left, right = self._operands(found)
        if left is None or right is None:
            return None
        ids, others = found[self.first].instances.id, found[self.second].instances.id
        wanted = parents[self.first - 1].of(ids)[0] if self.by_parent else ids
        rows = np.searchsorted(others, wanted)
        matched = np.zeros(len(ids), bool)
        inside = rows < len(others)
        matched[inside] = others[rows[inside]] == wanted[inside]
        column = np.full(left.shape, np.nan)
        taken = right[rows[matched]]
        if self.declared.operator == "-":
            column[matched] = left[matched] - taken
        else:
            taken[taken == 0] = np.nan
            column[matched] = left[matched] / taken
        return column

    def _operands(self, found: Sequence[Measured]) -> list[np.ndarray | None]:
        one = self.declared
        pairs = ((self.first, one.first), (self.second, one.second))
        if not one.of_shapes:
            return [found[number].layers.get(operand.name) for number, operand in pairs]
        columns = [found[number].shapes for number, _ in pairs]
        for (_, operand), shapes in zip(pairs, columns, strict=True):
            if shapes and operand.name not in shapes:
                raise InputError(
                    f"derived: {one.name} = {one.formula!r}: {operand.name} is several"
                )
        return [
            shapes.get(operand.name) for (_, operand), shapes in zip(pairs, columns, strict=True)
        ]


def derived_columns(
    formulas: Mapping[str, str] | None, origins: Mapping[str, Any], asked: Asked
) -> tuple[DerivedColumn, ...]:
    """Resolve formulas over layers, and how instances of two layers are matched.

    Those of layers that are made of the same labels are matched by their labels; others by the
    parent, if the second layer is the first of all, or made of it.

    Parameters
    ----------
    origins
        Labels whose instances each layer has, by the layer's name.
    asked
        Statistics and shapes that are asked for.

    Raises
    ------
    InputError
        See `harpy_core.statistics.derived.parsed`; or instances cannot be matched.
    """
    names, made_of = list(origins), list(origins.values())
    columns = []
    for one in parsed(formulas or {}, names, asked):
        first, second = (
            0 if operand.layer is None else names.index(operand.layer)
            for operand in (one.first, one.second)
        )
        alike = made_of[first] is made_of[second]
        if not alike and made_of[second] is not made_of[0]:
            raise InputError(
                f"derived: {one.name} = {one.formula!r}: an instance of {names[first]} may have "
                f"none or several of {names[second]}: both must be made of the same labels by "
                f"expand, ring or without (not as Dask arrays), or the second be {names[0]} or "
                "made of it"
            )
        columns.append(DerivedColumn(one, first, second, by_parent=not alike))
    return tuple(columns)


def with_derived(
    found: Sequence[Measured], parents: Sequence[Parents], columns: Sequence[DerivedColumn]
) -> list[Measured]:
    """Add derived columns to what was measured of each layer."""
    added = list(found)
    for column in columns:
        values = column.of(found, parents)
        if values is None:
            continue
        one, new = added[column.first], {column.declared.name: values}
        if column.declared.of_shapes:
            added[column.first] = replace(one, shapes={**one.shapes, **new})
        else:
            added[column.first] = replace(one, layers={**one.layers, **new})
    return added
