"""Statistics and shapes as they are asked for: names, declarations, functions, parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any

from harpy_core.errors import InputError
from harpy_core.statistics.declared import NAME_PATTERN as DECLARED_PATTERN
from harpy_core.statistics.declared import (
    NAMES,
    PARAMETRIC,
    Statistic,
    chosen,
    hint,
    of_channels,
    of_labels,
)
from harpy_core.statistics.joint import (
    Joint,
    manders_coloc_coeff,
    manders_overlap_coeff,
    pearson_corr_coeff,
)
from harpy_core.statistics.own import OWN_PATTERN, Measure, code_digest, load, measure
from harpy_core.statistics.shapes import SHAPES, Shape

if TYPE_CHECKING:
    import numpy as np

    from harpy_core.statistics.places import Placed

Stat = str | Statistic | Shape | Joint | Measure | Callable[..., Any]
Stats = Sequence[Stat | Sequence[Statistic]] | Stat

RINGS = 4
"""Rings of `radial_mean` where nothing else is asked for."""

PAIRED = ("pearson_corr_coeff", "manders_overlap_coeff", "manders_coloc_coeff")
"""Names that need pairs of channels."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a job computes.

    Attributes
    ----------
    statistics
        Statistics of each channel, by name.
    joints
        Numbers of several channels together, by name.
    shapes
        Shapes of instances, by name.
    """

    statistics: dict[str, Statistic]
    joints: dict[str, Joint]
    shapes: dict[str, Shape]

    @property
    def in_image(self) -> str | None:
        """Name of the first that is measured in the image; None of shapes alone."""
        return next(iter([*self.statistics, *self.joints]), None)

    @property
    def needs_instances(self) -> bool:
        """Whether it must be known before where the instances lie."""
        return bool(self.whole) or any(shape.whole for shape in self.shapes.values())

    @property
    def whole(self) -> list[str]:
        """Names of those of the image that need whole instances."""
        return [name for name, one in self.statistics.items() if one.whole] + list(self.joints)

    @property
    def placed(self) -> bool:
        """Whether any needs to know where the pixels lie."""
        return bool(self.joints) or any(one.placed for one in self.statistics.values())

    def joined(self, channels: Sequence[str]) -> list[int]:
        """Numbers of the channels that joints need, ascending."""
        return sorted({number for one in self.joints.values() for number in one.numbers(channels)})

    def together(self, channels: Sequence[str]) -> tuple[int, int] | None:
        """First channel that joints need, and the one after the last; None without joints."""
        numbers = self.joined(channels)
        return (numbers[0], numbers[-1] + 1) if numbers else None


def resolved(stats: Stats) -> Asked:
    """Resolve what was asked for, in its order.

    Raises
    ------
    InputError
        A name is neither a statistic nor a shape, two share a name, or none is given.
    """
    wanted = list(_declared(stats))
    joints: dict[str, Joint] = {}
    for one in wanted:
        if isinstance(one, Joint) and joints.setdefault(one.name, one) is not one:
            raise InputError(f"stats: two are called {one.name!r}; rename one of them")
        if isinstance(one, Joint) and one.name == "spatial":
            raise InputError("stats: 'spatial' are the centroids in obsm; rename the function")
    alone = [one for one in wanted if not isinstance(one, Joint)]
    found = {} if joints and not alone else chosen(alone)
    return Asked(of_channels(found), joints, of_labels(found))


def _declared(stats: Any) -> Iterator[str | Statistic | Shape | Joint]:
    """Yield names and declarations, those of families and functions made."""
    if isinstance(stats, Statistic | Shape | Joint):
        yield stats
    elif isinstance(stats, str):
        yield from _named(stats)
    elif isinstance(stats, Measure):
        found = stats.declared()
        yield from [found] if isinstance(found, Joint) else found
    elif callable(stats):
        yield from _declared(measure(stats))
    elif isinstance(stats, Iterable):
        for one in stats:
            yield from _declared(one)
    else:
        raise InputError(f"stats: {stats!r} is not a statistic; {hint(str(stats))}")


def _named(name: str) -> Iterator[str | Statistic | Shape | Joint]:
    if ":" in name:
        found = load(name)
        if not callable(found) and not isinstance(found, Statistic | Shape | Joint):
            raise InputError(f"stats: {name!r} is neither a function nor a statistic")
        yield from _declared(found)
    elif name == "radial_mean":
        yield from radial_mean()
    elif name in PAIRED:
        raise InputError(
            f"stats: {name} needs pairs of channels: give harpy_core.{name}(…), or in a config "
            "the key pairs"
        )
    else:
        yield name


def radial_mean(rings: int = RINGS) -> tuple[Statistic, ...]:
    """Means in rings around the centroid of each instance, for `harpy_core.aggregate_stats`.

    Ring k, from 1, has the pixels with k - 1 <= rings * r / R < k: r is a pixel's distance to the
    instance's centroid, R the largest of the instance; the last ring has those at R too.

    Parameters
    ----------
    rings
        Number of rings; the statistics are ``radial_mean-1`` to ``radial_mean-<rings>``.

    Raises
    ------
    InputError
        There is no ring, or there are more than 999.
    """
    if rings not in range(1, 1000):
        raise InputError(f"rings = {rings}: give 1 to 999")
    rings = int(rings)
    return tuple(
        Statistic(
            f"radial_mean-{ring + 1}",
            f"mean in ring {ring + 1} of {rings} from the centroid",
            ("placed",),
            partial(_ring, ring, rings),
            "intensity",
        )
        for ring in range(rings)
    )


def _ring(ring: int, rings: int, pixels: Placed) -> np.ndarray:
    return pixels.ring_mean(ring, rings)


def of_section(section: Mapping[str, Any]) -> list[Stat | Sequence[Statistic]]:
    """Return the statistics of a config's section aggregate, with their parameters.

    Raises
    ------
    InputError
        A parameter is missing.
    """
    pairs, thresholds = section["pairs"] or [], section["thresholds"] or {}
    made: dict[str, Callable[[], Any]] = {
        "radial_mean": lambda: radial_mean(section["rings"]),
        "pearson_corr_coeff": lambda: pearson_corr_coeff(pairs),
        "manders_overlap_coeff": lambda: manders_overlap_coeff(pairs),
        "manders_coloc_coeff": lambda: manders_coloc_coeff(pairs, thresholds),
    }
    return [made[name]() if name in made else name for name in section["stats"]]


def has_layers(stats: Sequence[str]) -> bool:
    """Whether names of a config are of any statistic of channels, for all that is known of them."""
    return any(name not in PAIRED and name not in SHAPES for name in stats)


def own_code(section: Mapping[str, Any]) -> dict[str, str]:
    """Digest of the code of each function of a config's section aggregate, by its name."""
    return {name: code_digest(name) for name in section["stats"] if ":" in name}


class _UnknownError(Exception):
    """A function's code cannot be identified."""


def identity(stats: Stats) -> list[Any] | None:
    """Return builtins that stand for what was asked for and its code; None where nothing does.

    The code of a function that is named ``module:name`` is known; one that was passed may be
    another one in the next run.
    """
    try:
        return [_identity(stats), {name: code_digest(name) for name in _own_names(stats)}]
    except _UnknownError:
        return None


def _own_names(stats: Any) -> Iterator[str]:
    if isinstance(stats, str):
        yield from [stats] if ":" in stats else []
    elif isinstance(stats, list | tuple):
        for one in stats:
            yield from _own_names(one)


def _identity(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_identity(one) for one in value]
    if isinstance(value, dict):
        return [[_identity(key), _identity(one)] for key, one in value.items()]
    if isinstance(value, Statistic | Joint | Shape):
        inside = [_identity(getattr(value, field.name)) for field in fields(value)]
        return [type(value).__name__, *inside]
    if isinstance(value, partial):
        return [_identity(value.func), _identity(value.args), _identity(value.keywords)]
    ours = isinstance(value, FunctionType) and value.__module__.startswith("harpy_core.")
    if not ours or "<" in value.__qualname__:
        raise _UnknownError
    return f"{value.__module__}:{value.__qualname__}"


NAME_PATTERN = f"{DECLARED_PATTERN[:-2]}|{'|'.join(PARAMETRIC)}|{OWN_PATTERN})$"
ALL_NAMES = f"{NAMES}; {', '.join(PARAMETRIC)}; and module:name for a function of your own"
