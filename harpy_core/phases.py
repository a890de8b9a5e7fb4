"""Phases that the time of tasks goes to: reading and decoding, kernels, encoding, writing.

A thread's time belongs to the innermost phase it is in, so phases never count twice. Two readings
of two clocks for a chunk of megabytes: nothing that could be measured.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

PHASES = ("decode", "kernel", "encode", "write")
"""Names, in the order in which a chunk goes through them."""

_lock = threading.Lock()
_totals: dict[str, list[float]] = {name: [0.0, 0.0] for name in PHASES}
_local = threading.local()


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Count the time of a block as one of `PHASES`."""
    inner = getattr(_local, "inner", None)
    _local.inner = within = [0.0, 0.0]
    wall, cpu = time.perf_counter(), time.thread_time()
    try:
        yield
    finally:
        wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
        _local.inner = inner
        if inner is not None:
            inner[0] += wall
            inner[1] += cpu
        with _lock:
            total = _totals[name]
            total[0] += wall - within[0]
            total[1] += cpu - within[1]


@dataclass(frozen=True, slots=True)
class Phased(Generic[T, R]):
    """A function whose calls count as a phase; it can be sent to another process."""

    name: str
    function: Callable[[T], R]

    def __call__(self, argument: T) -> R:
        """The function's result."""
        with phase(self.name):
            return self.function(argument)


def taken() -> dict[str, tuple[float, float]]:
    """Seconds of the threads of this process in each phase: by the clock, and of the processor.

    What the clock has more is waiting: for the disk, or for a core.
    """
    with _lock:
        return {name: (wall, cpu) for name, (wall, cpu) in _totals.items()}
