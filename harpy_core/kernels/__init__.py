"""The arithmetic on runs, once per engine. Kernels know nothing of Zarr, Dask or files."""

from __future__ import annotations

from types import ModuleType

from harpy_core.kernels.registry import AUTO, ENGINES, usable

__all__ = ["AUTO", "ENGINES", "engine"]


def engine(name: str) -> ModuleType:
    """Return the module of an engine, or of the one that ``auto`` is in this process.

    Raises
    ------
    InputError
        The name is not an engine, or the engine cannot be used here.
    """
    return usable(name).load()
