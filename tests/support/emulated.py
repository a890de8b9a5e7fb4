"""A card made of NumPy and a C++ compiler: the engine `cupy` runs on it without a GPU.

`gpu.cu` is compiled as C++ with `emulated.h`, and `EmulatedCard` takes the place of
`gpu_cards.CupyCard`. Whatever is not CuPy's own is the code that a GPU runs.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harpy_core.kernels import gpu, gpu_cards, gpu_sessions, gpu_types

COMPILER = shutil.which(os.environ.get("CXX", "g++"))
_SHIM = Path(__file__).with_name("emulated.h")
_FILL = 0xA5
"""Content of fresh memory, on a card that clears nothing."""
_GUARD = 64


def built(library: Path) -> ctypes.CDLL:
    """Compile every kernel there is into a library, one function `kernel_i` each, once."""
    assert COMPILER is not None
    if library.exists():
        return ctypes.CDLL(str(library))
    text = [f'#include "{_SHIM}"', f'#include "{gpu_cards.SOURCE}"']
    text += [
        f'extern "C" int kernel_{i}(unsigned x, unsigned y, unsigned threads, void** arguments)'
        f"{{ return emulation::launch({kernel}, x, y, threads, arguments); }}"
        for i, kernel in enumerate(gpu_types.every_kernel())
    ]
    source, whole = library.with_suffix(".cpp"), library.with_suffix(".part")
    source.write_text("\n".join(text), encoding="utf-8")
    # longjmp between the stacks of fibers is what a fortified one takes for an attack.
    options = ["-std=c++17", "-O1", "-w", "-shared", "-fPIC", "-U_FORTIFY_SOURCE"]
    subprocess.run([COMPILER, *options, "-o", whole, source], check=True)
    whole.rename(library)
    return ctypes.CDLL(str(library))


class EmulatedCard:
    """A card in host memory. What is written beyond a buffer, or read before it is put, shows."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._kernels = {kernel: i for i, kernel in enumerate(gpu_types.every_kernel())}
        self._guards: list[np.ndarray] = []

    def empty(self, size: int) -> np.ndarray:
        """A buffer on a border of 64 bytes, with a guard on either side."""
        whole = np.full(size + 3 * _GUARD, _FILL, np.uint8)
        first = -whole.ctypes.data % _GUARD + _GUARD
        self._guards += [whole[:first], whole[first + size :]]
        return whole[first : first + size]

    def pinned(self, size: int) -> np.ndarray:
        """Host memory like any other."""
        return np.full(size, _FILL, np.uint8)

    def put(self, host: np.ndarray, buffer: np.ndarray, offset: int = 0) -> None:
        """Copy bytes."""
        assert host.flags.c_contiguous
        buffer[offset : offset + host.nbytes] = host.reshape(-1).view(np.uint8)

    def get(self, buffer: np.ndarray, host: np.ndarray) -> None:
        """Copy bytes."""
        assert host.flags.c_contiguous
        host.reshape(-1).view(np.uint8)[...] = buffer[: host.nbytes]

    def launch(self, kernel: str, grid: tuple[int, int], *arguments: Any) -> None:
        """Run every thread of every block."""
        assert min(grid) > 0
        assert grid[1] < 65536
        values: list[Any] = []
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                values.append(ctypes.c_void_p(argument.ctypes.data))
            else:
                kinds = {4: ctypes.c_int32, 8: ctypes.c_int64}
                values.append(kinds[argument.itemsize](int(argument)))
        places = [ctypes.cast(ctypes.pointer(value), ctypes.c_void_p) for value in values]
        run = getattr(self._library, f"kernel_{self._kernels[kernel]}")
        if run(*grid, gpu_cards.BLOCK, (ctypes.c_void_p * len(places))(*places)):
            raise RuntimeError(f"{kernel}: lanes of a warp did not meet")

    def mark(self) -> EmulatedCard:
        """The card itself: everything is done already."""
        return self

    def synchronize(self) -> None:
        """There is nothing to wait for."""

    def wait(self) -> None:
        """Everything is done already; see whether it stayed within its buffers."""
        for guard in self._guards:
            assert np.all(guard == _FILL), "a kernel wrote beyond its buffer"


@contextmanager
def emulation(library: ctypes.CDLL) -> Iterator[None]:
    """Let the engine `cupy` of this process run on emulated cards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_sessions, "_new_card", lambda: EmulatedCard(library))
        patch.setattr(gpu_sessions, "_local", threading.local())
        patch.setattr(gpu, "trouble", lambda: None)
        yield
