"""The arithmetic on runs, once per engine. Kernels know nothing of Zarr, Dask or files."""

from __future__ import annotations

import importlib
from types import ModuleType

from harpy_core.errors import InputError

_ENGINES = {"numpy": "reference", "numba": "compiled", "cupy": "gpu"}


def engine(name: str) -> ModuleType:
    """The module of an engine: ``numpy``, ``numba``, ``cupy``, or ``auto``.

    ``auto`` is ``cupy`` where a GPU works in this process, else ``numba``.

    Raises
    ------
    InputError
        For a name that is no engine, and for ``cupy`` where no GPU can be used.
    """
    checked(name)
    if name in ("auto", "cupy"):
        trouble = gpu_trouble()
        if trouble is not None and name == "cupy":
            raise InputError(f"engine = 'cupy': {trouble}")
        name = "cupy" if trouble is None else "numba"
    return importlib.import_module(f"harpy_core.kernels.{_ENGINES[name]}")


def checked(name: str) -> str:
    """The name of an engine, or ``auto``.

    Raises
    ------
    InputError
        For any other.
    """
    if name != "auto" and name not in _ENGINES:
        raise InputError(f"engine = {name!r}: not an engine; choose auto, {', '.join(_ENGINES)}")
    return name


def gpu_trouble() -> str | None:
    """Why no GPU can be used by this process, in one line; None where one can."""
    from harpy_core.kernels import gpu

    return gpu.trouble()


def gpus() -> list[str]:
    """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    from harpy_core.kernels import gpu

    return gpu.visible()


def gpu_room() -> int:
    """Bytes that are free on this process's GPU, where `gpu_trouble` is None."""
    from harpy_core.kernels import gpu

    return gpu.room()
