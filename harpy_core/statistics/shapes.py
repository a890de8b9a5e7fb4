"""Declarations of shapes: numbers of an instance that follow from its labels alone.

A label partial is what they are finished from. Those that add up are merged as tiles arrive; the
others need the instance whole. Names and definitions are those of scikit-image's `regionprops`,
unless a description says otherwise. This module imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harpy_core.errors import InputError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class LabelPartial:
    """Contribution of a label tile to an instance.

    Attributes
    ----------
    description
        Meaning, in a few words.
    words
        Words of 8 bytes per instance.
    whole
        Whether it is made only where all pixels of an instance are together.
    axes
        Numbers of axes that the labels may have.
    """

    description: str
    words: int
    whole: bool = False
    axes: tuple[int, ...] = (2, 3)


LABEL_PARTIALS: dict[str, LabelPartial] = {
    "size": LabelPartial("pixels, sums of their coordinates, bounding box", 10),
    "moments": LabelPartial("sums of products of two coordinates", 12),
    "borders": LabelPartial("counts of border pixels, crossings and corners", 11, whole=True),
    "hull": LabelPartial("pixels and diameter of the convex hull", 2, whole=True),
    "holes": LabelPartial("pixels, those of holes too", 1, whole=True),
}
"""Every label partial by name."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One number, or a few, for each instance.

    Attributes
    ----------
    name
        Name of its column in `obs`; of several, each followed by ``-0``, ``-1``, ….
    description
        Meaning, in a few words, with its formula.
    needs
        Label partials that it is finished from.
    finish
        Function of the finished partials, in the order of `needs`, that returns (instances,) or
        (instances, k) float64: see `harpy_core.statistics.label_partials`.
    unit
        Power of the length of a pixel's side: ``length``, ``length^2`` (of volumes ``length^3``),
        ``pixels``, ``radians`` or nothing.
    axes
        Numbers of axes that the labels may have.
    square
        Whether all sides of a pixel must be equal.
    """

    name: str
    description: str
    needs: tuple[str, ...]
    finish: Callable[..., np.ndarray]
    unit: str = ""
    axes: tuple[int, ...] = (2, 3)
    square: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.needs if name not in LABEL_PARTIALS]
        if unknown or not self.needs:
            raise InputError(
                f"shape {self.name!r}: needs {unknown[0] if unknown else 'nothing'!r}; "
                f"choose from the label partials {', '.join(LABEL_PARTIALS)}"
            )

    @property
    def whole(self) -> bool:
        """Whether it is finished only where all pixels of an instance are together."""
        return any(LABEL_PARTIALS[name].whole for name in self.needs)


_ALL = (
    Shape("area", "pixels, n; in 3D the volume", ("size",), lambda s: s.area, "length^2"),
    Shape("area_bbox", "area of the bounding box", ("size",), lambda s: s.area_bbox, "length^2"),
    Shape(
        "bbox",
        "smallest (z, ) y and x, then the largest plus one",
        ("size",),
        lambda s: s.box,
        "pixels",
    ),
    Shape("extent", "area / area_bbox", ("size",), lambda s: s.area / s.area_bbox),
    Shape(
        "equivalent_diameter_area",
        "diameter of a disc of the same area, (4 n / pi)^(1/2); of a ball (6 n / pi)^(1/3)",
        ("size",),
        lambda s: s.diameter,
        "length",
    ),
    Shape(
        "axis_major_length",
        "longest axis of the ellipse of the same second moments, 4 l1^(1/2) with the eigenvalues "
        "l1 >= l2 of the inertia tensor; of the ellipsoid (10 (l1 + l2 - l3))^(1/2)",
        ("moments",),
        lambda m: m.axes[:, 0],
        "length",
    ),
    Shape(
        "axis_minor_length",
        "shortest axis of that ellipse, 4 l2^(1/2); of the ellipsoid (10 (l2 + l3 - l1))^(1/2)",
        ("moments",),
        lambda m: m.axes[:, 1],
        "length",
    ),
    Shape(
        "eccentricity",
        "eccentricity of that ellipse, (1 - l2 / l1)^(1/2); 0 is a circle",
        ("moments",),
        lambda m: m.eccentricity,
        axes=(2,),
    ),
    Shape(
        "orientation",
        "angle between the y axis and the longest axis, from -pi/2 to pi/2 counter-clockwise",
        ("moments",),
        lambda m: m.orientation,
        "radians",
        axes=(2,),
    ),
    Shape(
        "perimeter",
        "length of the line through the centres of border pixels, with 4 neighbours (Benkrid and "
        "Crookes 2000)",
        ("borders",),
        lambda b: b.perimeter,
        "length",
        axes=(2,),
        square=True,
    ),
    Shape(
        "perimeter_crofton",
        "Crofton's formula in 4 directions (Rivollier 2010)",
        ("borders",),
        lambda b: b.crofton,
        "length",
        axes=(2,),
        square=True,
    ),
    Shape(
        "surface_area",
        "Crofton's formula in 13 directions, with the weights of their Voronoi cells on the sphere "
        "(Legland et al. 2007); not in scikit-image",
        ("borders",),
        lambda b: b.surface,
        "length^2",
        axes=(3,),
    ),
    Shape(
        "euler_number",
        "objects minus holes, with 8 neighbours; of volumes objects plus cavities minus tunnels, "
        "with 26",
        ("borders",),
        lambda b: b.euler,
    ),
    Shape(
        "area_convex",
        "pixels of the convex hull",
        ("hull",),
        lambda h: h.area,
        "length^2",
    ),
    Shape(
        "solidity",
        "area / area_convex",
        ("size", "hull"),
        lambda s, h: s.area / h.area,
    ),
    Shape(
        "feret_diameter_max",
        "longest distance between points of the outline of the convex hull",
        ("hull",),
        lambda h: h.diameter,
        "length",
        square=True,
    ),
    Shape(
        "area_filled",
        "pixels, and those of holes: of background that 8 neighbours (26) do not join to the "
        "outside",
        ("holes",),
        lambda h: h.area,
        "length^2",
    ),
)

SHAPES: dict[str, Shape] = {shape.name: shape for shape in _ALL}
"""Shapes by name."""


def label_partials_of(shapes: Iterable[Shape]) -> tuple[str, ...]:
    """The label partials that some shapes are finished from."""
    needed = {name for shape in shapes for name in shape.needs}
    return tuple(name for name in LABEL_PARTIALS if name in needed)


def label_words_of(shapes: Iterable[Shape]) -> int:
    """Number of words per instance until the shapes are finished."""
    return sum(LABEL_PARTIALS[name].words for name in label_partials_of(shapes) if name != "size")


def refuse_impossible(shapes: Iterable[Shape], axes: int, spacing: Sequence[float] | None) -> None:
    """Refuse shapes that labels of so many axes, or pixels of such sides, do not have.

    Raises
    ------
    InputError
        One line names the shape and the remedy.
    """
    for shape in shapes:
        if axes not in shape.axes or any(axes not in LABEL_PARTIALS[n].axes for n in shape.needs):
            raise InputError(
                f"stats: {shape.name} is not defined for labels with {axes} axes; leave it out"
            )
        if shape.square and spacing is not None and len(set(spacing)) > 1:
            sides = " x ".join(f"{side:g}" for side in spacing)
            raise InputError(
                f"stats: {shape.name} needs sides of one length, these are {sides}; leave it out, "
                "or ask for it in pixels"
            )
