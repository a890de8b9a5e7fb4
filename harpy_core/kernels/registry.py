"""Registry of engines: the one list that names, choices, wildcards and colours come from.

An engine is a module with functions of `harpy_core.kernels.reference`, as many as it does better;
one for GPUs also has ``trouble``, ``visible`` and ``room``, and one that takes chunks still encoded
says ``DECODES``. To add one, write the module and register it below. NumPy is not imported before
an engine is loaded: the workflow asks while it is parsed.
"""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from harpy_core.errors import InputError

AUTO = "auto"
"""Name of a GPU's engine where every worker has a working GPU, else of the first for the CPU."""

FUNCTIONS = (
    "LabelIndex",
    "encode",
    "geometry",
    "reduce",
    "powers",
    "by_slot",
    "collect",
    "order_statistics",
    "sum_by",
    "edge",
    "count_all",
    "count_runs",
    "gather",
    "samples",
    "interpolate",
    "second_moments",
    "borders",
    "hulls",
    "holes",
    "contacts",
    "overlaps",
)
"""Functions that the jobs ask of an engine."""

_logger = logging.getLogger("harpy_core")
_told: set[str] = set()


@dataclass(frozen=True, slots=True)
class Engine:
    """One implementation of the arithmetic, on one device.

    Attributes
    ----------
    name
        Name as users write it.
    module
        Full name of the module with its functions.
    device
        ``gpu`` for an engine whose workers have a GPU each.
    whole_arrays
        Whether it works on all pixels of a tile at a time, in temporary arrays of 64-bit words, as
        the reference does: a plan counts them.
    fallback
        Name of the engine whose functions stand in for those that the module lacks.
    """

    name: str
    module: str
    device: Literal["cpu", "gpu"] = "cpu"
    whole_arrays: bool = False
    fallback: str = "numpy"

    def load(self) -> ModuleType:
        """Import the module, completed by the engine that stands in for what it lacks."""
        module = self._alone()
        lacking = [name for name in FUNCTIONS if not hasattr(module, name)]
        if not lacking:
            return module
        if self.name not in _told:
            _told.add(self.name)
            _logger.info("engine %s: %s of %s", self.name, ", ".join(lacking), self.fallback)
        return _Completed(module, ENGINES[self.fallback].load())

    def trouble(self) -> str | None:
        """Reason why this process cannot use the engine, in one line; None where it can."""
        trouble: str | None = self._alone().trouble() if self.device == "gpu" else None
        return trouble

    def gpus(self) -> list[str]:
        """GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
        gpus: list[str] = self._alone().visible() if self.device == "gpu" else []
        return gpus

    def room(self) -> int:
        """Free bytes on this process's GPU, where there is no trouble."""
        room: int = self._alone().room()
        return room

    def _alone(self) -> ModuleType:
        return importlib.import_module(self.module)


class _Completed(ModuleType):
    """A module of kernels, completed by another for what it lacks."""

    def __init__(self, module: ModuleType, rest: ModuleType) -> None:
        super().__init__(module.__name__)
        self._modules = module, rest

    def __getattr__(self, name: str) -> Any:
        module, rest = self._modules
        return getattr(module, name) if hasattr(module, name) else getattr(rest, name)


ENGINES: dict[str, Engine] = {}
"""Every engine by name, in the order of choices and colours."""


def register(engine: Engine) -> None:
    """Add an engine; worker processes must do so too.

    Raises
    ------
    ValueError
        The name is already taken.
    """
    if engine.name == AUTO or engine.name in ENGINES:
        raise ValueError(f"{engine.name!r} is an engine already: choose another name")
    ENGINES[engine.name] = engine


register(Engine("numba", "harpy_core.kernels.compiled"))
register(Engine("numpy", "harpy_core.kernels.reference", whole_arrays=True))
register(Engine("cupy", "harpy_core.kernels.gpu", device="gpu", fallback="numba"))


def checked(name: str) -> str:
    """Return the name of an engine, or ``auto``, as it is.

    Raises
    ------
    InputError
        The name is any other.
    """
    if name != AUTO and name not in ENGINES:
        raise InputError(f"engine = {name!r}: not an engine; choose {', '.join((AUTO, *ENGINES))}")
    return name


def on(device: Literal["cpu", "gpu"]) -> list[Engine]:
    """Return the engines of a device."""
    return [engine for engine in ENGINES.values() if engine.device == device]


def has_gpus(name: str) -> bool:
    """Whether an engine's workers have a GPU each; False for ``auto``, for which it is unknown."""
    return checked(name) != AUTO and ENGINES[name].device == "gpu"


def usable(name: str) -> Engine:
    """Return the engine that this process uses for a name, which may be ``auto``.

    Raises
    ------
    InputError
        The name is not an engine, or the engine cannot be used here.
    """
    if checked(name) == AUTO:
        without_trouble = (engine for engine in on("gpu") if engine.trouble() is None)
        return next(without_trouble, on("cpu")[0])
    trouble = ENGINES[name].trouble()
    if trouble is not None:
        raise InputError(f"engine = {name!r}: {trouble}")
    return ENGINES[name]
