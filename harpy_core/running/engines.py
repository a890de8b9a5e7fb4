"""Which engine a job runs on: asked where its tasks will run, and told in the log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from harpy_core.errors import InputError
from harpy_core.kernels import checked, gpu_room, gpu_trouble

if TYPE_CHECKING:
    from distributed import Client

_logger = logging.getLogger("harpy_core")


def resolved(name: str, client: Client | None = None) -> str:
    """The engine that the tasks of a job will use: ``numpy``, ``numba`` or ``cupy``.

    Parameters
    ----------
    name
        What was asked for; ``auto`` is ``cupy`` where every worker has a GPU that works, else
        ``numba``.
    client
        The workers; None is this process.

    Raises
    ------
    InputError
        A name that is no engine, or ``cupy`` where a worker has no GPU.
    """
    if checked(name) in ("auto", "cupy"):
        troubles = _troubles(client)
        if name == "cupy" and troubles:
            raise InputError(f"engine = 'cupy': {troubles[0]}")
        engine = "numba" if troubles else "cupy"
        if name == "auto" and troubles:
            _logger.info("engine: numba (auto: %s)", troubles[0])
            return engine
        name = engine
    _logger.info("engine: %s", name)
    return name


def free_on_gpus(name: str, client: Client) -> dict[str, int]:
    """Bytes free on the GPU of each worker, by its address; empty where none is used.

    Parameters
    ----------
    name
        The engine that was asked for.
    client
        The workers.
    """
    if name not in ("auto", "cupy") or _troubles(client):
        return {}
    return dict(client.run(gpu_room))


def _troubles(client: Client | None) -> list[str]:
    """Why a GPU cannot be used, for each process that has none."""
    if client is None:
        trouble = gpu_trouble()
        return [trouble] if trouble else []
    found = client.run(gpu_trouble)
    return [f"worker {worker}: {trouble}" for worker, trouble in found.items() if trouble]
