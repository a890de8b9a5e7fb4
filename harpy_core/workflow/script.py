"""Frame of every rule's script: a log, one thread per library, one-line errors.

`running` is entered before anything heavy is imported, because the libraries read the number of
their threads on import.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harpy_core.config.models import Cluster
from harpy_core.errors import InputError, TransientError
from harpy_core.running.ending import leave
from harpy_core.running.workers import ONE_THREAD
from harpy_core.workflow.starter import end_with_starter

if TYPE_CHECKING:
    from distributed import Client

    from harpy_core.planning.parts import Plan
    from harpy_core.raster.info import RasterInfo

OWN_THREADS_BYTES = 2**29
"""Bytes that a stage reads and writes in about a second, less than its workers take to start."""

_NEW_OBJECTS = 50_000
"""Objects that are made before those not referred to are looked for: imports make a million, which
all stay, and looking for others among them takes a sixth of a small stage's time."""

_STOPPED = 128 + signal.SIGINT
"""Exit status of a process that was ended by Ctrl-C."""

_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"


@contextmanager
def running(snakemake: Any) -> Iterator[logging.Logger]:
    """Run the block as a rule's job.

    Its log file says what was given, what the block logs and how it ended, and it ends with the
    Snakemake that started it. The process ends with the block, whatever comes after. Bad input ends
    it with the error's one line on stderr, and any further try of the same run at once with the
    same line; any other error with one line that names the log, where the traceback is.

    Parameters
    ----------
    snakemake
        Object of that name in a script.
    """
    log = Path(snakemake.log[0])
    logger = _logger(log)
    gc.set_threshold(_NEW_OBJECTS)
    # Snakemake exports the rule's threads: N workers would run N x N threads.
    os.environ.update(ONE_THREAD)
    end_with_starter()
    started = time.monotonic()
    name = " ".join([snakemake.rule, *map(str, snakemake.wildcards)])
    refusal = log.with_suffix(".refused")
    if snakemake.resources.get("attempt", 1) > 1 and refusal.is_file():
        told = refusal.read_text(encoding="utf-8")
        logger.error("%s", told)
        sys.exit(told)
    refusal.unlink(missing_ok=True)
    logger.info("%s: started, %d threads", name, snakemake.threads)
    for key, value in snakemake.params.items():
        if key != "code":
            logger.info("  %s: %s", key, value)
    try:
        yield logger
    except InputError as error:
        logger.error("%s", error)
        if not isinstance(error, TransientError):
            # Snakemake tries a failed job again, whatever it failed of.
            refusal.write_text(str(error), encoding="utf-8")
        sys.exit(str(error))
    except Exception as error:
        logger.exception("%s: failed after %.1f s", name, time.monotonic() - started)
        told = " ".join(str(error).split())
        sys.exit(f"{name}: {type(error).__name__}: {told}: its traceback is in {log}")
    except KeyboardInterrupt:
        logger.error("%s: stopped after %.1f s", name, time.monotonic() - started)
        # Those who press Ctrl-C know where; Python would show each call down to there.
        print(f"{name}: stopped", file=sys.stderr)
        sys.exit(_STOPPED)
    except BaseException:
        logger.error("%s: stopped after %.1f s", name, time.monotonic() - started)
        raise
    logger.info("%s: done in %.1f s", name, time.monotonic() - started)
    leave()


@contextmanager
def workers(
    snakemake: Any, stage: str, info: RasterInfo, **settings: Any
) -> Iterator[Client | None]:
    """Start the workers of a stage, once its plan is known to fit them and the disk.

    Parameters
    ----------
    snakemake
        Object of that name in a script.
    stage
        ``instances``, ``aggregate`` or ``extract``.
    info
        The raster that is read.
    settings
        The stage's own settings, for `harpy_core.planning.plan.stage_plan`.

    Raises
    ------
    InputError
        The stage cannot fit; the message names the setting to change.
    """
    from harpy_core.planning.plan import stage_plan

    plan = stage_plan(stage, info, engine=snakemake.params.engine, **settings)
    with workers_for(snakemake, plan) as client:
        yield client


@contextmanager
def workers_for(snakemake: Any, plan: Plan) -> Iterator[Client | None]:
    """Start the workers that a plan was made for, once it is known to fit them and the disk.

    It yields None, for the job's own threads, where processes take longer to start than the work.

    Parameters
    ----------
    snakemake
        Object of that name in a script; its first output tells which disk is written to.
    plan
        Plan of the stage.

    Raises
    ------
    InputError
        The stage cannot fit; the message names the setting to change.
    """
    from harpy_core.kernels.registry import has_gpus
    from harpy_core.planning import fits, forecast
    from harpy_core.running import schedule
    from harpy_core.running.workers import Workers, engine_here

    where = Cluster.model_validate(snakemake.config.get("cluster", {}))
    folder = Path(snakemake.output[0]).parent
    engine, cores = snakemake.params.engine, snakemake.threads
    asked = Workers.of(where, cores, engine_here(where, engine))
    told = forecast.sentence(plan, asked, folder)
    logging.getLogger("harpy_core").info("  %s", told)
    print(told, file=sys.stderr, flush=True)
    fits.refuse_unfit(plan, asked, where, cores, folder)
    if where == Cluster() and not has_gpus(engine) and plan.bytes_moved <= OWN_THREADS_BYTES:
        with schedule.own_threads(cores):
            yield None
        return
    # Importing Dask takes longer than a small stage.
    from harpy_core.running import cluster

    # What the stage's own job was given, more in a further try.
    minutes = snakemake.resources.runtime
    with cluster.connect(where, threads=cores, engine=engine, minutes=minutes) as client:
        fits.refuse_small_workers(plan, client)
        fits.refuse_small_gpus(plan, engine, client)
        yield client


def _logger(log: Path) -> logging.Logger:
    log.parent.mkdir(parents=True, exist_ok=True)
    # Dask logs every connection it opens, at the level of INFO.
    logging.basicConfig(
        filename=log, filemode="w", format=_FORMAT, level=logging.WARNING, force=True
    )
    logging.captureWarnings(True)
    # Nobody reads a log for connections that were opened and closed in good order.
    os.environ["DASK_LOGGING__DISTRIBUTED"] = "warning"
    logger = logging.getLogger("harpy_core")
    logger.setLevel(logging.INFO)
    return logger
