"""Dask's lazy values in pieces, so that few are in progress and nothing is computed twice.

A scheduler with the whole graph holds every result until the last one is there. Here each value is
a piece of the graph, and so is each node that several pieces need: they are handed out in the order
of the values, and what is shared is held from its first use to its last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a graph that one thread computes in one go.

    Attributes
    ----------
    key
        Key of the node whose value is wanted.
    nodes
        Nodes of the piece itself, by key.
    needs
        Keys of the pieces whose values it needs.
    """

    key: Any
    nodes: dict[Any, Any]
    needs: tuple[Any, ...]

    def compute(self, values: Sequence[Any]) -> Any:
        """Compute the piece's value from those it needs."""
        import dask

        given = {
            key: (partial(_itself, value),) for key, value in zip(self.needs, values, strict=True)
        }
        return dask.get({**self.nodes, **given}, self.key)


def _itself(value: Any) -> Any:
    return value


def compute(piece: Piece, values: Sequence[Any]) -> Any:
    """Compute the piece's value from those it needs; sent to workers."""
    return piece.compute(values)


class Pieces:
    """The pieces of some delayed values.

    Parameters
    ----------
    values
        Dask's delayed values, in the order in which they are wanted.
    apart
        Turn each node that a value depends on directly into a piece too: worth it where there are
        fewer values than threads.
    """

    def __init__(self, values: Sequence[Any], apart: bool) -> None:
        import dask
        from dask.core import get_deps, toposort

        values = dask.optimize(*values)
        graph = dict(values[0].__dask_graph__()) if values else {}
        self._wanted = [value.key for value in values]
        dependencies, dependents = get_deps(graph)
        ends = set(self._wanted)
        if apart:
            ends |= {key for wanted in self._wanted for key in dependencies[wanted]}
        home: dict[Any, Any] = {}
        self._nodes: dict[Any, dict[Any, Any]] = {}
        for key in reversed(toposort(graph)):
            users = {home[user] for user in dependents[key]}
            home[key] = key if key in ends or len(users) != 1 else users.pop()
            self._nodes.setdefault(home[key], {})[key] = graph[key]
        self._needs = {
            piece: tuple(
                dict.fromkeys(
                    key for node in nodes for key in dependencies[node] if home[key] != piece
                )
            )
            for piece, nodes in self._nodes.items()
        }
        self._uses = Counter(key for needs in self._needs.values() for key in needs)
        self._futures: dict[Any, Any] = {}

    def handed_out(self, submit: Callable[[Piece, list[Any]], Any]) -> Iterator[Any]:
        """Yield the future of each value in turn.

        Parameters
        ----------
        submit
            Function that returns the future of a piece, from the futures of those it needs.
        """
        for wanted in self._wanted:
            for key in self._not_yet(wanted):
                piece = Piece(key, self._nodes.pop(key), self._needs[key])
                future = submit(piece, [self._futures[need] for need in piece.needs])
                for need in piece.needs:
                    self._uses[need] -= 1
                    if not self._uses[need]:
                        del self._futures[need]
                if key != wanted:
                    self._futures[key] = future
            yield future

    def _not_yet(self, wanted: Any) -> list[Any]:
        """Return the pieces that a value still needs, each after its own, the value's last."""
        found: dict[Any, None] = {}
        stack = [wanted]
        while stack:
            key = stack[-1]
            missing = [n for n in self._needs[key] if n in self._nodes and n not in found]
            if missing:
                stack.extend(missing)
            else:
                found[stack.pop()] = None
        return list(found)
