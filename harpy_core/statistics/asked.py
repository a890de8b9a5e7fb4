"""Statistics and shapes as they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harpy_core.statistics.declared import Declared, Statistic, chosen, of_channels, of_labels
from harpy_core.statistics.shapes import Shape

Stats = Sequence[Declared] | Declared


@dataclass(frozen=True, slots=True)
class Asked:
    """What a job computes.

    Attributes
    ----------
    statistics
        Statistics of each channel, by name.
    shapes
        Shapes of instances, by name.
    """

    statistics: dict[str, Statistic]
    shapes: dict[str, Shape]

    @property
    def in_image(self) -> str | None:
        """Name of the first that is measured in the image; None of shapes alone."""
        return next(iter(self.statistics), None)

    @property
    def whole(self) -> list[str]:
        """Names of those of the image that need whole instances."""
        return [name for name, one in self.statistics.items() if one.whole]

    @property
    def needs_instances(self) -> bool:
        """Whether it must be known before where the instances lie."""
        return bool(self.whole) or any(shape.whole for shape in self.shapes.values())


def resolved(stats: Stats) -> Asked:
    """Resolve what was asked for, in its order.

    Raises
    ------
    InputError
        A name is neither a statistic nor a shape, two share a name, or none is given.
    """
    found = chosen(stats)
    return Asked(of_channels(found), of_labels(found))
