"""The arithmetic on runs, once per engine. Kernels know nothing of Zarr, Dask or files."""

from __future__ import annotations

import importlib
from types import ModuleType

from harpy_core.errors import InputError

_ENGINES = {"numpy": "reference", "numba": "compiled"}


def engine(name: str) -> ModuleType:
    """The module of an engine: ``numpy``, ``numba``, or ``auto`` for the fastest one at hand.

    Raises
    ------
    InputError
        For a name that is no engine.
    """
    if name == "auto":
        name = "numba"
    if name not in _ENGINES:
        raise InputError(f"engine = {name!r}: not an engine; choose auto, {', '.join(_ENGINES)}")
    return importlib.import_module(f"harpy_core.kernels.{_ENGINES[name]}")
