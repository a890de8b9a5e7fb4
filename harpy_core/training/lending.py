"""Memory that is lent to batches again and again: fresh memory costs more than decoding crops.

A batch's tensors are parts of one piece of memory. It is lent to the caller until the last tensor
is gone; from a loader worker it goes to the training process, without a copy, and comes back when
the last tensor is gone there.
"""

from __future__ import annotations

import multiprocessing
import os
import uuid
import weakref
from math import prod
from typing import Any

import numpy as np
import torch

from harpy_core.training.batches import Layout

_ALIGNMENT = 64
_MOST = 32
"""Pieces that are kept: more are in use only if the caller collects batches."""

_SENDINGS = 7
_KNOWN = _SENDINGS
_NOTES = 8 * (_SENDINGS + 1)
"""Bytes after a piece, for eight numbers that only the receiving process writes: which of the last
seven transfers are gone there, and whether it knows the piece by name."""


def _notes(memory: torch.Tensor) -> np.ndarray:
    notes: np.ndarray = memory[-_NOTES:].numpy().view(np.int64)
    return notes


class _Piece:
    """A piece of memory.

    Parameters
    ----------
    size
        Number of bytes, a multiple of the alignment.
    shared
        Whether it is shared with other processes.
    name
        Name by which the other process knows it; None where it is lent only once.
    """

    def __init__(self, size: int, shared: bool, name: str | None) -> None:
        self._name = name
        self._memory = torch.empty(size + _NOTES, dtype=torch.uint8)
        if shared:
            self._memory.share_memory_()
        self._notes = _notes(self._memory)
        self._notes[:] = 0
        self._lent: weakref.ref[np.ndarray] | None = None
        self._sent = 0
        self._away: list[int] = []

    @property
    def size(self) -> int:
        return len(self._memory) - _NOTES

    def is_free(self) -> bool:
        # In this order: what another thread sends meanwhile is still lent here.
        if self._lent is not None and self._lent() is not None:
            return False
        self._away = [k for k in self._away if self._notes[k % _SENDINGS] != k]
        return not self._away

    def lend(self) -> np.ndarray:
        """Return its bytes, lent until all that is made from this array is gone."""
        lent: np.ndarray = self._memory.numpy()
        self._lent = weakref.ref(lent)
        return lent

    def __reduce__(self) -> tuple[Any, ...]:
        self._sent += 1
        self._away.append(self._sent)
        memory = None if self._notes[_KNOWN] else self._memory
        return _arrived, (self._name, os.getpid(), self._sent, memory)


_known: dict[str, torch.Tensor] = {}
"""Memory of loader workers by name: handing it over costs more than what is in it."""


def _arrived(
    name: str | None, worker: int, sending: int, memory: torch.Tensor | None
) -> np.ndarray:
    """Return the bytes of a piece in the training process; a note is made when they are gone."""
    if memory is None:
        memory = _known[str(name)]
    elif name is not None:
        _keep(name, worker, memory)
    lent: np.ndarray = memory.numpy()
    note = weakref.finalize(lent, _notes(memory).__setitem__, sending % _SENDINGS, sending)
    note.atexit = False
    return lent


def _keep(name: str, worker: int, memory: torch.Tensor) -> None:
    """Keep a piece under its name for as long as its worker lives."""
    for process in multiprocessing.active_children():
        if process.pid == worker:
            _known[name] = memory
            _notes(memory)[_KNOWN] = 1
            weakref.finalize(process, _known.pop, name, None)


class _Part(torch.Tensor):
    """A tensor in a piece of memory, with which it goes to another process as a plain tensor.

    Results computed from it are plain tensors too.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _tensor, self.place

    def __copy__(self) -> torch.Tensor:
        return self.view_as(self)

    def __deepcopy__(self, memo: Any) -> torch.Tensor:
        return self.clone()


def _tensor(lent: np.ndarray, offset: int, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
    kind = np.dtype(dtype)
    part = lent[offset : offset + prod(shape) * kind.itemsize]
    return torch.from_numpy(part.view(kind).reshape(shape))


class Lender:
    """Lender of memory for batches.

    Parameters
    ----------
    shared
        Whether the batches go to another process.
    """

    def __init__(self, shared: bool) -> None:
        self._shared = shared
        self._pieces: list[_Piece] = []

    def lend(self, layout: Layout) -> dict[str, torch.Tensor]:
        """Return tensors of these shapes and types, not filled."""
        offsets, end = {}, 0
        for name, (shape, dtype) in layout.items():
            offsets[name] = end
            end += -(-prod(shape) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
        piece = self._free(end)
        lent = piece.lend()
        tensors = {}
        for name, (shape, dtype) in layout.items():
            place = offsets[name], shape, dtype.str
            tensors[name] = _tensor(lent, *place)
            if self._shared:
                tensors[name] = tensors[name].as_subclass(_Part)
                tensors[name].place = piece, *place
        return tensors

    def _free(self, size: int) -> _Piece:
        for piece in self._pieces:
            if piece.size >= size and piece.is_free():
                return piece
        if len(self._pieces) == _MOST:
            return _Piece(size, self._shared, None)
        self._pieces.append(_Piece(size, self._shared, uuid.uuid4().hex))
        return self._pieces[-1]
