"""Columns derived from two others, declared as text: ratios and differences between layers.

It is imported while the workflow is parsed, so nothing heavy is imported here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from harpy_core.errors import InputError
from harpy_core.statistics.asked import Asked

_FORMULA = re.compile(r"\s*(\S+)\s+([-/])\s+(\S+)\s*")
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_TAKEN = ("X", "instance_id", "count", "region", "parent", "overlap")
"""Names of other columns of a table."""


@dataclass(frozen=True, slots=True)
class Operand:
    """A statistic or shape of a layer.

    Attributes
    ----------
    layer
        Name of the layer; None: the first.
    name
        Name of the statistic or shape.
    """

    layer: str | None
    name: str


@dataclass(frozen=True, slots=True)
class Derived:
    """A column derived from two others.

    Attributes
    ----------
    name
        Name of the column; its rows are those of the first operand's layer.
    formula
        Text that it was made from.
    first, second
        Operands.
    operator
        ``-`` or ``/``.
    of_shapes
        Whether both are shapes, a column of obs each, rather than statistics of channels.
    """

    name: str
    formula: str
    first: Operand
    operator: str
    second: Operand
    of_shapes: bool


def parsed(
    formulas: Mapping[str, str], layers: Collection[str], asked: Asked, complete: bool = True
) -> list[Derived]:
    """Parse formulas such as ``nucleus.mean / cytoplasm.mean`` and ``mean - ring.mean``.

    Parameters
    ----------
    formulas
        Formula of each column by its name: two statistics, or two shapes, that are asked for, of
        the first layer or, after its name and a dot, of another one.
    layers
        Names of the layers.
    asked
        Statistics and shapes that are asked for.
    complete
        Whether those are all; otherwise a formula that names others is left out.

    Raises
    ------
    InputError
        A text is no such formula, or names what is not there; or a name is taken.
    """
    found = [_parsed(name, text, layers, asked, complete) for name, text in formulas.items()]
    return [one for one in found if one is not None]


def _parsed(
    name: str, text: str, layers: Collection[str], asked: Asked, complete: bool
) -> Derived | None:
    match = _FORMULA.fullmatch(str(text))
    if match is None:
        raise InputError(
            f"derived: {name} = {text!r}: give two of stats with - or / between spaces, such as "
            "nucleus.mean / cytoplasm.mean"
        )
    if not _NAME.fullmatch(name):
        raise InputError(f"derived: {name!r} cannot be a name: use ASCII letters, digits, _ and -")
    if name in (*asked.statistics, *asked.shapes, *asked.joints, *_TAKEN):
        raise InputError(f"derived: {name!r} is the name of another column; rename it")
    # A bounding box is several columns.
    there = (*asked.statistics, *(shape for shape in asked.shapes if shape != "bbox"))
    operands = []
    for word in (match[1], match[3]):
        operand = next(_readings(word, layers, there), None)
        if operand is None:
            _refuse_unknown_layer(name, text, word, layers)
            if not complete:
                return None
            raise InputError(
                f"derived: {name} = {text!r}: {word} is none of stats: {', '.join(there)}"
            )
        operands.append(operand)
    first, second = operands
    shapes = [one.name in asked.shapes for one in operands]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"derived: {name} = {text!r}: {operands[shapes.index(True)].name} is a shape, and "
            f"{operands[shapes.index(False)].name} a statistic of channels; give two of a kind"
        )
    return Derived(name, text, first, match[2], second, shapes[0])


def _readings(word: str, layers: Collection[str], there: Sequence[str]) -> Iterator[Operand]:
    """Yield what an operand may mean; names of layers and of statistics may have dots."""
    if word in there:
        yield Operand(None, word)
    for layer in layers:
        if word.startswith(f"{layer}.") and word.removeprefix(f"{layer}.") in there:
            yield Operand(layer, word.removeprefix(f"{layer}."))


def _refuse_unknown_layer(name: str, text: str, word: str, layers: Collection[str]) -> None:
    prefix, dot, _ = word.partition(".")
    if dot and not any(word.startswith(f"{layer}.") for layer in layers):
        known = f"there are {', '.join(layers)}" if layers else "there are none"
        raise InputError(
            f"derived: {name} = {text!r}: no layer is called {prefix}: {known}; a statistic of the "
            "first labels has no prefix"
        )
