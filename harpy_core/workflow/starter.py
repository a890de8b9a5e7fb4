"""End of a script with the Snakemake that started it: nobody else waits for its result.

A Snakemake killed by SIGKILL cannot end its scripts. One that ran on would hold its store's lock,
and the next run, which begins its outputs anew, would do everything once more.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time

import psutil

_LOOK_SECONDS = 1.0
"""Interval at which the starter is looked for."""

_GRACE_SECONDS = 5.0
"""Time for workers and scratch folders to be cleaned up in order, before all are killed."""

_LEAVE = signal.SIGUSR2
"""Signal to the main thread: a shell has what it starts in the background ignore interrupts."""


def end_with_starter() -> None:
    """End this process and its children once the process that started the script is gone."""
    starter = _starter()
    if starter is not None:
        signal.signal(_LEAVE, signal.default_int_handler)
        threading.Thread(target=_watch, args=(starter,), daemon=True).start()


def _starter() -> psutil.Process | None:
    """Nearest ancestor that does not name the script, which Snakemake calls through a shell."""
    script = sys.argv[0]
    try:
        above = psutil.Process().parent()
        while above is not None and any(script in word for word in above.cmdline()):
            above = above.parent()
    except psutil.Error:
        return None
    return above


def _watch(starter: psutil.Process) -> None:
    while starter.is_running() and starter.status() != psutil.STATUS_ZOMBIE:
        time.sleep(_LOOK_SECONDS)
    logging.getLogger("harpy_core").error("the Snakemake that started this is gone: stopping")
    # Like Ctrl-C: the main thread leaves its blocks, and its workers end with it.
    signal.pthread_kill(threading.main_thread().ident or 0, _LEAVE)
    time.sleep(_GRACE_SECONDS)
    for child in psutil.Process().children(recursive=True):
        child.kill()
    os.kill(os.getpid(), signal.SIGKILL)
