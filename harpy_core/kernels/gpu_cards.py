"""GPUs: whether there is one, what a thread asks of it, and its kernels, compiled by CuPy.

CuPy is not imported before a card is used.
"""

from __future__ import annotations

import functools
import os
import threading
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from harpy_core.errors import InputError

SOURCE = Path(__file__).with_name("gpu.cu")
OPTIONS = ("--std=c++17",)

BLOCK = 128
"""Threads of a block, as `gpu.cu` declares it."""


@functools.cache
def trouble() -> str | None:
    """Reason why this process can use no GPU, and the remedy; None if it can use one."""
    try:
        import cupy
    except ModuleNotFoundError as error:
        if error.name == "cupy":
            return (
                "CuPy is not installed; install harpy-core[cuda13], or [cuda12] for an older "
                "driver, or choose the engine numba"
            )
        return _unusable("CuPy does not load", error)
    except Exception as error:
        return _unusable("CuPy does not load", error)
    try:
        # No context is made: a process that only asks takes no memory of the card.
        if cupy.cuda.runtime.getDeviceCount() < 1:
            return "no NVIDIA GPU is to be seen; choose the engine numba"
        cupy.cuda.nvrtc.getVersion()
    except Exception as error:
        return _unusable("no NVIDIA GPU works", error)
    return None


def _unusable(what: str, error: Exception) -> str:
    return f"{what} ({_one_line(error)}); look at nvidia-smi, or choose the engine numba"


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def visible() -> list[str]:
    """GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    if trouble() is not None:
        return []
    import cupy

    count = cupy.cuda.runtime.getDeviceCount()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return [name.strip() for name in named][:count] if all(named) else [*map(str, range(count))]


def room() -> int:
    """Free bytes on this process's GPU."""
    import cupy

    return int(cupy.cuda.runtime.memGetInfo()[0])


class Mark(Protocol):
    """A point in the order of a card's calls."""

    def synchronize(self) -> None:
        """Return when everything before the mark is done."""


class Card(Protocol):
    """A GPU as one thread uses it: everything is done in the order of the calls."""

    def empty(self, size: int) -> Any:
        """Return a buffer of `size` bytes on the card."""

    def pinned(self, size: int) -> np.ndarray:
        """Return `size` bytes of host memory, as uint8, that the card reads and writes fast."""

    def put(self, host: np.ndarray, buffer: Any, offset: int = 0) -> None:
        """Copy to the card, `offset` bytes into a buffer."""

    def get(self, buffer: Any, host: np.ndarray) -> None:
        """Copy from the card; the pixels are there after `wait`."""

    def launch(self, kernel: str, grid: tuple[int, int], *arguments: Any) -> None:
        """Run a kernel by its name in C++, with buffers and NumPy scalars."""

    def mark(self) -> Mark:
        """Mark the present point in the order of calls."""

    def wait(self) -> None:
        """Return when all calls are done."""


class CupyCard:
    """The current GPU of this process, on a stream of its own."""

    def __init__(self) -> None:
        import cupy

        self._cupy = cupy
        self._runtime = cupy.cuda.runtime
        self._stream = cupy.cuda.Stream(non_blocking=True)

    def empty(self, size: int) -> Any:
        """Allocate by the driver; the memory is freed as soon as it is dropped: no pool grows."""
        cupy = self._cupy
        try:
            memory = cupy.cuda.Memory(size)
        except self._runtime.CUDARuntimeError as error:
            raise InputError(
                f"the GPU has no room for {size:,} bytes more ({_one_line(error)}); lower "
                "cluster.threads_per_worker, or choose the engine numba"
            ) from error
        return cupy.ndarray((size,), np.uint8, cupy.cuda.MemoryPointer(memory, 0))

    def pinned(self, size: int) -> np.ndarray:
        pinned = self._cupy.cuda.PinnedMemory(max(size, 1))
        return np.frombuffer(self._cupy.cuda.PinnedMemoryPointer(pinned, 0), np.uint8, size)

    def put(self, host: np.ndarray, buffer: Any, offset: int = 0) -> None:
        self._copy(buffer.data.ptr + offset, host.ctypes.data, host.nbytes, "HostToDevice")

    def get(self, buffer: Any, host: np.ndarray) -> None:
        self._copy(host.ctypes.data, buffer.data.ptr, host.nbytes, "DeviceToHost")

    def _copy(self, target: int, source: int, size: int, way: str) -> None:
        kind = getattr(self._runtime, f"memcpy{way}")
        self._runtime.memcpyAsync(target, source, size, kind, self._stream.ptr)

    def launch(self, kernel: str, grid: tuple[int, int], *arguments: Any) -> None:
        with self._stream:
            _compiled(kernel)(grid, (BLOCK,), arguments)

    def mark(self) -> Mark:
        mark: Mark = self._stream.record(self._cupy.cuda.Event(disable_timing=True))
        return mark

    def wait(self) -> None:
        self._stream.synchronize()


_compiling = threading.Lock()
_kernels: dict[str, Any] = {}


def _compiled(kernel: str) -> Any:
    """Compile a kernel for this process's GPU, once; CuPy keeps it on disk."""
    with _compiling:
        if kernel not in _kernels:
            import cupy

            module = cupy.RawModule(
                code=SOURCE.read_text(encoding="utf-8"),
                options=OPTIONS,
                name_expressions=(kernel,),
            )
            _kernels[kernel] = module.get_function(kernel)
        return _kernels[kernel]
