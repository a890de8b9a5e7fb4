"""Choice of a job's engine: asked where its tasks will run, and logged."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from harpy_core.errors import InputError
from harpy_core.kernels.registry import AUTO, ENGINES, Engine, checked, on
from harpy_core.running.lookout import wait_for_a_worker

if TYPE_CHECKING:
    from distributed import Client

_logger = logging.getLogger("harpy_core")


def resolved(name: str, client: Client | None = None) -> str:
    """Name of the engine that the tasks of a job will use, from `kernels.registry.ENGINES`.

    Parameters
    ----------
    name
        Name that was asked for; ``auto`` is an engine of GPUs where every worker has a working
        one, else the first for the CPU.
    client
        Client of the workers; None is this process.

    Raises
    ------
    InputError
        The name is not an engine, or a worker cannot use the engine.
    """
    if checked(name) == AUTO:
        return _chosen(client)
    troubles = _troubles(ENGINES[name], client)
    if troubles:
        raise InputError(f"engine = {name!r}: {troubles[0]}")
    _logger.info("engine: %s", name)
    return name


def _chosen(client: Client | None) -> str:
    """Name of the engine that ``auto`` is."""
    why = []
    for engine in on("gpu"):
        troubles = _troubles(engine, client)
        if not troubles:
            _logger.info("engine: %s", engine.name)
            return engine.name
        why.append(troubles[0])
    name = on("cpu")[0].name
    _logger.info("engine: %s (auto: %s)", name, "; ".join(why))
    return name


def free_on_gpus(name: str, client: Client) -> dict[str, int]:
    """Free bytes on the GPU of each worker, by its address; empty where none is used.

    Parameters
    ----------
    name
        Name of the engine that was asked for.
    client
        Client of the workers.
    """
    asked = on("gpu") if name == AUTO else [ENGINES[name]] if ENGINES[name].device == "gpu" else []
    for engine in asked:
        if not _troubles(engine, client):
            return dict(client.run(engine.room))
    return {}


def _troubles(engine: Engine, client: Client | None) -> list[str]:
    """Reasons why an engine cannot be used, one for each process that cannot."""
    if engine.device == "cpu":
        return []
    if client is None:
        trouble = engine.trouble()
        return [trouble] if trouble else []
    wait_for_a_worker(client)
    found = client.run(engine.trouble)
    return [f"worker {worker}: {trouble}" for worker, trouble in found.items() if trouble]
