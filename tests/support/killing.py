"""An extraction in a process of its own that is killed, as SIGKILL does it, between two commits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent

_EXTRACTION = """
import os, signal, sys, threading
import zarr
import harpy_core as hc
from harpy_core.storage.commits import WorkFolder
from cases import tiles_of

target, commits, options, *arrays = sys.argv[1:]
record, done, lock = WorkFolder._record, [], threading.Lock()

def dying(self, name, facts):
    with lock:
        if len(done) >= int(commits):
            os.kill(os.getpid(), signal.SIGKILL)
        record(self, name, facts)
        done.append(name)

WorkFolder._record = dying
image, labels = (zarr.open_array(array, mode="r") for array in arrays)
with tiles_of(1):
    hc.extract_instances(image, labels, target, **eval(options))
"""


def extract_until_killed(
    arrays: Sequence[Any], target: str | Path, commits: int, options: dict[str, Any]
) -> None:
    """Begin an extraction, which dies after so many commits.

    Parameters
    ----------
    arrays
        Image and labels, Zarr arrays on the disk.
    target, options
        Arguments of `harpy_core.extract_instances`.
    """
    paths = [str(_HERE), str(_HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
    places = [str(array.store.root) for array in arrays]
    command = [sys.executable, "-c", _EXTRACTION, str(target), str(commits), repr(options), *places]
    ended = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, check=False
    )
    assert ended.returncode == -signal.SIGKILL


def committed(work: Path) -> set[str]:
    """Names of what a work folder has records of."""
    return {path.name for path in (work / "commits").iterdir() if path.name[0] != "."}
