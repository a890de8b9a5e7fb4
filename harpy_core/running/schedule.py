"""Run tasks on threads or on a Dask cluster: a bounded number in flight, results in order.

Results come in the order of the tasks, whatever finished first, so that what is merged from them
does not depend on timing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from harpy_core.running.given import given_cores

if TYPE_CHECKING:
    from distributed import Client

T = TypeVar("T")
R = TypeVar("R")

IN_FLIGHT = 3
"""Tasks handed out for each thread: one at work and enough behind it to hide the way there."""


_own_threads: ContextVar[int | None] = ContextVar("_own_threads", default=None)


@contextmanager
def own_threads(number: int) -> Iterator[None]:
    """Run tasks without a client on so many threads of this process, not on one for each core."""
    before = _own_threads.set(number)
    try:
        yield
    finally:
        _own_threads.reset(before)


def threads_of(client: Client | None) -> int:
    """How many tasks can run at the same time."""
    if client is None:
        return _own_threads.get() or given_cores()
    return max(sum(client.nthreads().values()), 1)


def in_order(
    function: Callable[[T], R],
    tasks: Iterable[T],
    client: Client | None = None,
    threads: int | None = None,
) -> Iterator[R]:
    """Results of `function` over `tasks`, each as soon as those before it are there.

    Parameters
    ----------
    function, tasks
        Both are sent to the workers where there is a client.
    client
        A Dask client; None runs on threads of this process.
    threads
        How many of them; `threads_of` the client without.
    """
    threads = threads or threads_of(client)
    width = IN_FLIGHT * threads
    if client is None:
        with ThreadPoolExecutor(threads) as pool:
            yield from _rolling(lambda task: pool.submit(function, task), tasks, width)
    else:
        yield from _rolling(lambda task: client.submit(function, task, pure=False), tasks, width)


def _rolling(submit: Callable[[T], Any], tasks: Iterable[T], width: int) -> Iterator[Any]:
    waiting: deque[Any] = deque()
    try:
        for task in tasks:
            waiting.append(submit(task))
            if len(waiting) >= width:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


class Readable(Protocol):
    """A task that reads its own pixels."""

    def detached(self) -> Any:
        """The task with no more pixels than it needs, to be sent to another process."""


class Lazy(Protocol):
    """A task on blocks of Dask arrays."""

    @property
    def labels(self) -> Any:
        """The label block, not yet computed."""

    @property
    def image(self) -> list[Any]:
        """The image blocks, not yet computed."""

    def without_blocks(self) -> Any:
        """The task alone."""

    def on_blocks(self, labels: Any, blocks: list[Any]) -> Any:
        """The task that reads its pixels from computed blocks."""


def results(
    function: Callable[[Any], R],
    tasks: Sequence[Any],
    client: Client | None = None,
    *,
    lazy: bool = False,
) -> Iterator[tuple[Any, R]]:
    """Each task with its result, in the order of the tasks.

    Parameters
    ----------
    function
        Run on each task, or on what `on_blocks` makes of a lazy one.
    tasks
        All `Readable`, or all `Lazy`.
    client
        A Dask client; None runs in this process.
    lazy
        Which of the two they are.
    """
    if lazy:
        yield from zip(tasks, _computed(function, tasks, client), strict=True)
    else:
        sent = tasks if client is None else (task.detached() for task in tasks)
        yield from zip(tasks, in_order(function, sent, client), strict=True)


def _run_on_blocks(function: Callable[[Any], R], task: Lazy, labels: Any, blocks: list[Any]) -> R:
    return function(task.on_blocks(labels, blocks))


def _computed(
    function: Callable[[Any], R], tasks: Sequence[Lazy], client: Client | None
) -> Iterator[R]:
    """Results on Dask blocks, all of one graph, so that what the blocks share is made once."""
    import dask

    run = dask.delayed(_run_on_blocks, pure=False)
    values = [run(function, t.without_blocks(), t.labels, t.image) for t in tasks]
    if client is None:
        yield from dask.compute(*values, scheduler="threads")
        return
    waiting = deque(client.compute(values))
    try:
        while waiting:
            yield waiting.popleft().result()
    finally:
        client.cancel(list(waiting))
