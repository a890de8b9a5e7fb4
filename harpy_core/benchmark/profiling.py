"""Memory, CPU time and bytes of a process and all its descendants, measured from outside.

It starts the sampler (`harpy_core.benchmark.sampler`, a process of its own) and derives the figures
from its samples; it starts no measured process and knows nothing about it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

_CPU_WINDOW = 1.0


@dataclass(frozen=True, slots=True)
class ProcessTreeSummary:
    """Resources that a process tree used.

    Attributes
    ----------
    wall_s
        Length of the observed time, in seconds.
    peak_rss, mean_rss, mean_vsz
        Peak and mean of the resident and the virtual memory summed over the tree, in bytes. Pages
        shared between processes count once for each. The means are over time, not over samples.
    cpu_s
        CPU time of the tree, including dead processes, in seconds.
    peak_cpu_percent
        Highest use of the CPU over any second (over the whole time, if it is shorter); 100 is one
        core.
    mean_cpu_percent
        CPU time over wall time; 100 is one core.
    hwm_sum
        Highest sum of the exact peaks (`VmHWM`) of processes alive together, over the whole life
        of the tree, in bytes. The true peak of the tree's RSS lies between `peak_rss`, which
        misses what happens between samples, and this, which takes all peaks as simultaneous.
    peak_pss, peak_uss
        Highest proportional and unique set size seen, over the whole life of the tree, in bytes:
        shared pages count once, and not at all. None if the system does not report them.
    bytes_read, bytes_written
        Bytes that the tree fetched from storage, and caused to be written there.
    major_faults
        Page faults that had to wait for storage.
    peak_rss_by_role
        Highest RSS summed over the processes of each role, in bytes.
    samples
        Number of samples in the observed time.
    interval, pss_interval
        Mean time between samples, and between those with PSS and USS, in seconds.
    sampler_percent
        CPU time of the sampler itself; 100 is one core.
    """

    wall_s: float
    peak_rss: int
    mean_rss: float
    mean_vsz: float
    cpu_s: float
    peak_cpu_percent: float
    mean_cpu_percent: float
    hwm_sum: int
    peak_pss: int | None
    peak_uss: int | None
    bytes_read: int
    bytes_written: int
    major_faults: int
    peak_rss_by_role: dict[str, int]
    samples: int
    interval: float
    pss_interval: float
    sampler_percent: float


class ProcessTreeSampler:
    """Sampler of a process and its descendants, until the block is left.

    This context manager starts a process that is not part of the tree: a sampler inside a busy
    process starves. To count the CPU time to the end, leave the block before the process is waited
    for (`os.waitid` with `WNOWAIT` waits without reaping).

    Parameters
    ----------
    pid
        Root of the tree.
    interval
        Time between samples, in seconds; longer if sampling would take more than a hundredth of a
        core.

    Attributes
    ----------
    samples
        Lines for each process and sample, and one of the role ``tree`` for all together
        (`harpy_core.benchmark.sampler.COLUMNS`), once the block is left.

    Raises
    ------
    ProcessLookupError
        The process is not there at the start.
    """

    def __init__(self, pid: int, interval: float = 0.05) -> None:
        self.interval = interval
        self.samples: pd.DataFrame
        self._pid = pid
        self._cost: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="harpy-core-samples-")
        self._path = Path(self._folder.name) / "samples.csv"
        script = Path(__file__).with_name("sampler.py")
        # Isolated: a module beside the script must not replace one of the standard library.
        arguments = map(str, (script, self._pid, self._path, self.interval))
        command = [sys.executable, "-I", *arguments]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            told = self._process.communicate()[1].strip()
            self._folder.cleanup()
            raise ProcessLookupError(told)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        import pandas as pd

        with self._folder:
            told, trouble = self._process.communicate()
            if self._process.returncode:
                raise RuntimeError(f"the sampler failed: {trouble.strip()}")
            self._cost = json.loads(told)
            self.samples = pd.read_csv(self._path)

    def summary(self, since: float | None = None, until: float | None = None) -> ProcessTreeSummary:
        """Peaks and means between two moments.

        Parameters
        ----------
        since, until
            Readings of `time.monotonic`, which all processes of a Linux machine share; None for
            the first and the last sample.
        """
        tree = self.samples[self.samples["role"] == "tree"]
        processes = self.samples[self.samples["role"] != "tree"]
        moments = tree["time"].to_numpy()
        start = moments[0] if since is None else float(np.clip(since, moments[0], moments[-1]))
        end = moments[-1] if until is None else float(np.clip(until, start, moments[-1]))
        inside = moments[(moments > start) & (moments < end)]
        edges = np.concatenate([[start], inside, [end]])

        def curve(column: str) -> np.ndarray:
            return np.interp(edges, moments, tree[column].to_numpy())

        rss, cpu = curve("rss"), curve("cpu")
        wall = float(end - start)
        used = float(cpu[-1] - cpu[0])
        return ProcessTreeSummary(
            wall_s=wall,
            peak_rss=int(rss.max()),
            mean_rss=_mean(edges, rss),
            mean_vsz=_mean(edges, curve("vsz")),
            cpu_s=used,
            peak_cpu_percent=_peak_rate(edges, cpu) * 100,
            mean_cpu_percent=used / wall * 100 if wall else 0.0,
            hwm_sum=_peak_of_peaks(processes),
            peak_pss=_highest(tree["pss"]),
            peak_uss=_highest(tree["uss"]),
            bytes_read=_gain(curve("read")),
            bytes_written=_gain(curve("written")),
            major_faults=_gain(curve("faults")),
            peak_rss_by_role=_by_role(processes[processes["time"].between(start, end)]),
            samples=int(np.count_nonzero((moments >= start) & (moments <= end))),
            interval=self._cost["interval"],
            pss_interval=self._cost["pss_interval"],
            sampler_percent=self._cost["cost_percent"],
        )


def _peak_of_peaks(processes: pd.DataFrame) -> int:
    """Highest sum of the last peaks of processes that were alive together."""
    lives = processes.groupby(["pid", "start"]).agg(
        first=("time", "min"), last=("time", "max"), peak=("hwm", "max")
    )
    highest = 0
    for first in lives["first"].unique():
        alive = (lives["first"] <= first) & (lives["last"] >= first)
        highest = max(highest, int(lives["peak"][alive].sum()))
    return highest


def _by_role(processes: pd.DataFrame) -> dict[str, int]:
    sums: Any = processes.groupby(["role", "time"])["rss"].sum()
    return {str(role): int(peak) for role, peak in sums.groupby("role").max().items()}


def _highest(values: pd.Series[float]) -> int | None:
    return None if values.isna().all() else int(values.max())


def _gain(curve: np.ndarray) -> int:
    return round(float(curve[-1] - curve[0]))


def _mean(moments: np.ndarray, values: np.ndarray) -> float:
    """Mean over time of a curve given at some moments."""
    length = moments[-1] - moments[0]
    if not length:
        return float(values[0])
    return float(np.trapezoid(values, moments) / length)


def _peak_rate(moments: np.ndarray, total: np.ndarray) -> float:
    """Steepest rise of a growing total over any window of `_CPU_WINDOW`, per second."""
    length = moments[-1] - moments[0]
    if not length:
        return 0.0
    window = min(_CPU_WINDOW, length)
    ends = np.clip(np.concatenate([moments, moments + window]), moments[0] + window, moments[-1])
    rise = np.interp(ends, moments, total) - np.interp(ends - window, moments, total)
    return float(rise.max() / window)
