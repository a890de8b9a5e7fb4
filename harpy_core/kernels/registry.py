"""The engines there are: the one list that names, choices, wildcards and colours come from.

An engine is a module with the functions of `harpy_core.kernels.reference`; one for GPUs also has
``trouble``, ``visible`` and ``room``. To add one, write the module and register it below. Nothing
of NumPy is imported before an engine is loaded: the workflow asks while it is parsed.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

from harpy_core.errors import InputError

AUTO = "auto"
"""A GPU's engine where every worker has a GPU that works, else the first of the processor's."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What does the arithmetic, and on which device.

    Attributes
    ----------
    name
        As users write it.
    module
        Where its functions are, by its full name.
    device
        ``gpu`` for an engine whose workers have a GPU each.
    """

    name: str
    module: str
    device: Literal["cpu", "gpu"] = "cpu"

    def load(self) -> ModuleType:
        """Import the module."""
        return importlib.import_module(self.module)

    def trouble(self) -> str | None:
        """Why this process cannot use the engine, in one line; None where it can."""
        trouble: str | None = self.load().trouble() if self.device == "gpu" else None
        return trouble

    def gpus(self) -> list[str]:
        """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
        gpus: list[str] = self.load().visible() if self.device == "gpu" else []
        return gpus

    def room(self) -> int:
        """Bytes that are free on this process's GPU, where there is no trouble."""
        room: int = self.load().room()
        return room


ENGINES: dict[str, Engine] = {}
"""Every engine by its name, in the order in which choices and colours are given out."""


def register(engine: Engine) -> None:
    """Add an engine; worker processes must do so too.

    Raises
    ------
    ValueError
        The name is taken.
    """
    if engine.name == AUTO or engine.name in ENGINES:
        raise ValueError(f"{engine.name!r} is an engine already: choose another name")
    ENGINES[engine.name] = engine


register(Engine("numba", "harpy_core.kernels.compiled"))
register(Engine("numpy", "harpy_core.kernels.reference"))
register(Engine("cupy", "harpy_core.kernels.gpu", device="gpu"))


def checked(name: str) -> str:
    """The name of an engine, or ``auto``.

    Raises
    ------
    InputError
        For any other.
    """
    if name != AUTO and name not in ENGINES:
        raise InputError(f"engine = {name!r}: not an engine; choose {', '.join((AUTO, *ENGINES))}")
    return name


def on(device: Literal["cpu", "gpu"]) -> list[Engine]:
    """The engines of a device."""
    return [engine for engine in ENGINES.values() if engine.device == device]


def has_gpus(name: str) -> bool:
    """Whether an engine's workers have a GPU each; not known, and so not said, of ``auto``."""
    return checked(name) != AUTO and ENGINES[name].device == "gpu"


def usable(name: str) -> Engine:
    """The engine that this process uses for a name, which may be ``auto``.

    Raises
    ------
    InputError
        For a name that is no engine, and for an engine that cannot be used here.
    """
    if checked(name) == AUTO:
        without_trouble = (engine for engine in on("gpu") if engine.trouble() is None)
        return next(without_trouble, on("cpu")[0])
    trouble = ENGINES[name].trouble()
    if trouble is not None:
        raise InputError(f"engine = {name!r}: {trouble}")
    return ENGINES[name]
