"""Run tasks on threads or on a Dask cluster: a bounded number in flight, results in order.

The number follows the cluster's threads: clusters that grow are used.

Results arrive in the order of the tasks, whichever finishes first, so that what is merged from them
does not depend on timing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from harpy_core.phases import Phased
from harpy_core.running.given import given_cores
from harpy_core.running.lookout import Lookout
from harpy_core.running.pieces import Piece, Pieces, compute

if TYPE_CHECKING:
    from distributed import Client

T = TypeVar("T")
R = TypeVar("R")

IN_FLIGHT = 3
"""Tasks handed out per thread: one at work, and enough behind it to hide the transfer."""

_own_threads: ContextVar[int | None] = ContextVar("_own_threads", default=None)


@contextmanager
def own_threads(number: int) -> Iterator[None]:
    """Run tasks without a client on `number` threads of this process, not on one per core."""
    before = _own_threads.set(number)
    try:
        yield
    finally:
        _own_threads.reset(before)


def threads_of(client: Client | None) -> int:
    """Number of tasks that can run at the same time."""
    if client is None:
        return _own_threads.get() or given_cores()
    return max(sum(client.nthreads().values()), 1)


def in_order(
    function: Callable[[T], R],
    tasks: Iterable[T],
    client: Client | None = None,
    threads: int | None = None,
) -> Iterator[R]:
    """Yield results of `function` over `tasks`, each as soon as those before it are there.

    Parameters
    ----------
    function, tasks
        Function and its arguments; both are sent to the workers if there is a client.
    client
        Dask client; None runs on threads of this process.
    threads
        Number of threads; None takes `threads_of` the client.
    """
    # A task is kernels but for what it does under another name.
    function = Phased("kernel", function)
    if client is None:
        threads = threads or threads_of(None)
        with ThreadPoolExecutor(threads) as pool:
            futures = (pool.submit(function, task) for task in tasks)
            yield from _on_threads(futures, threads)
    else:
        lookout = Lookout(client)
        yield from _on_cluster(_handed_out(function, tasks, client, lookout), lookout)


def _on_threads(futures: Iterator[Any], threads: int) -> Iterator[Any]:
    return _rolling(futures, lambda: threads, lambda waiting: [waiting[0].result()])


def _on_cluster(futures: Iterator[Any], lookout: Lookout) -> Iterator[Any]:
    return _rolling(futures, lambda: lookout.threads(threads_of), lookout.results)


def _handed_out(
    function: Callable[[Any], Any], tasks: Iterable[Any], client: Client, lookout: Lookout
) -> Iterator[Any]:
    """Yield futures of tasks, handed out several at a time: each message costs milliseconds."""
    tasks = iter(tasks)
    while some := list(islice(tasks, lookout.together)):
        yield from client.map(function, some, pure=False)


def _rolling(
    futures: Iterator[Any],
    threads: Callable[[], int],
    results: Callable[[Sequence[Any]], Sequence[Any]],
) -> Iterator[Any]:
    """Yield results in order, drawing no more futures than keep the present threads busy."""
    waiting: deque[Any] = deque()
    try:
        for future in futures:
            waiting.append(future)
            while len(waiting) >= IN_FLIGHT * threads():
                yield from _first(waiting, results)
        while waiting:
            yield from _first(waiting, results)
    finally:
        for future in waiting:
            future.cancel()


def _first(waiting: deque[Any], results: Callable[[Sequence[Any]], Sequence[Any]]) -> Iterator[Any]:
    """Yield the first results; until they are there, their futures may still be cancelled."""
    for found in results(waiting):
        waiting.popleft()
        yield found


class Readable(Protocol):
    """A task that reads its own pixels."""

    def detached(self) -> Any:
        """Return the task with no more pixels than it needs, to be sent to another process."""


class Lazy(Protocol):
    """A task on blocks of Dask arrays."""

    @property
    def labels(self) -> Any:
        """The label block, not yet computed."""

    @property
    def image(self) -> list[Any]:
        """The image blocks, not yet computed."""

    def without_blocks(self) -> Any:
        """Return the task without its blocks."""

    def on_blocks(self, labels: Any, blocks: list[Any]) -> Any:
        """Return the task that reads its pixels from computed blocks."""


def results(
    function: Callable[[Any], R],
    tasks: Sequence[Any],
    client: Client | None = None,
    *,
    lazy: bool = False,
) -> Iterator[tuple[Any, R]]:
    """Yield each task with its result, in the order of the tasks.

    Parameters
    ----------
    function
        Function to run on each task, or on what `on_blocks` makes of a lazy one.
    tasks
        Tasks, all `Readable` or all `Lazy`.
    client
        Dask client; None runs in this process.
    lazy
        Whether they are `Lazy`.
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
    """Yield results on Dask blocks; what blocks share is computed once."""
    import dask

    run = dask.delayed(_run_on_blocks, pure=False)
    threads = threads_of(client)
    values = [run(function, t.without_blocks(), t.labels, t.image) for t in tasks]
    pieces = Pieces(values, apart=len(values) < threads)
    if client is not None:
        there = partial(client.submit, compute, pure=False)
        yield from _on_cluster(pieces.handed_out(there), Lookout(client))
        return
    with ThreadPoolExecutor(threads) as pool:
        futures = pieces.handed_out(lambda piece, needed: pool.submit(_after, needed, piece))
        yield from _on_threads(futures, threads)


def _after(needed: list[Future[Any]], piece: Piece) -> Any:
    """Compute a piece; those it waits for were handed out before it, so one of them can run."""
    return compute(piece, [future.result() for future in needed])
