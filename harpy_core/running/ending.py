"""Quick end of a process whose work is done.

Taking down an interpreter that has loaded pandas, Numba and Dask takes a third of a second or
more: longer than many a stage's work.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import NoReturn


def leave(status: int = 0) -> NoReturn:
    """End this process as `sys.exit` would, but leave its memory to the system.

    Handlers of `atexit` run, and what was printed is flushed. Threads are not waited for.

    Parameters
    ----------
    status
        Exit status.
    """
    atexit._run_exitfuncs()
    _end(status)


def leave_at_exit() -> None:
    """Let this process leave its memory to the system when it ends, with exit status 0."""
    atexit.register(_end)


def _end(status: int = 0) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)
