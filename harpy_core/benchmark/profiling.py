"""Memory and CPU of a process and all its descendants, sampled from beside it.

Owns the sampling and its figures; starts no process and knows nothing of what is measured.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import numpy as np
import psutil

# A PSS reading walks all page tables (12 ms for a large process) and holds the process's memory
# lock meanwhile, so readings may take this share of the time at most.
_PSS_SHARE = 0.02
_CPU_WINDOW = 1.0


@dataclass(frozen=True, slots=True)
class ProcessTreeSummary:
    """What a process tree used.

    Attributes
    ----------
    wall_s
        Length of the time looked at, in seconds.
    peak_rss, mean_rss, mean_vsz
        Of the resident and the virtual memory summed over the tree, in bytes. Pages shared
        between processes count once for each. The means are over time, not over samples.
    peak_cpu_percent
        Highest use of the CPU over any second (over the whole time, where it is shorter);
        100 is one core.
    mean_cpu_percent
        CPU time over wall time; 100 is one core.
    hwm_sum
        Highest sum of the exact peaks (`VmHWM`) of processes alive together, over the whole life
        of the tree, in bytes. The true peak of the tree's RSS lies between `peak_rss`, which
        misses what happens between samples, and this, which takes all peaks as simultaneous.
    peak_pss
        Highest proportional set size seen, over the whole life of the tree, in bytes: shared
        pages count once. None where the system does not tell.
    samples
        Number of samples in the time looked at.
    interval
        Mean time between samples, in seconds.
    """

    wall_s: float
    peak_rss: int
    mean_rss: float
    mean_vsz: float
    peak_cpu_percent: float
    mean_cpu_percent: float
    hwm_sum: int
    peak_pss: int | None
    samples: int
    interval: float


@dataclass(slots=True, eq=False)
class _Member:
    """One process of the tree, as last seen."""

    process: psutil.Process
    parent: int
    first_sample: int
    last_sample: int = 0
    rss: int = 0
    vsz: int = 0
    high_water: int = 0
    own_cpu: float = 0.0
    reaped_cpu: float = 0.0
    lost_cpu: float = 0.0
    alive: bool = True

    def read(self, sample: int) -> None:
        """Read the process's counters; what vanishes half-way keeps what was seen before."""
        try:
            with self.process.oneshot():
                memory = self.process.memory_info()
                times = self.process.cpu_times()
                zombie = self.process.status() == psutil.STATUS_ZOMBIE
        except psutil.Error:
            self.alive = False
            return
        self.rss, self.vsz = memory.rss, memory.vms
        self.own_cpu = times.user + times.system
        self.reaped_cpu = getattr(times, "children_user", 0.0)
        self.reaped_cpu += getattr(times, "children_system", 0.0)
        self.last_sample = sample
        if not zombie:
            # The kernel brings VmHWM up to date late: it can be some pages below the RSS.
            high_water = _high_water(self.process.pid) or 0
            self.high_water = max(self.high_water, high_water, self.rss)

    @property
    def cpu(self) -> float:
        """Own CPU time and that of dead children, in seconds.

        The kernel's count of waited-for children misses those nobody waits for; the count of what
        was last seen of each dead child misses what came after. The larger is nearer.
        """
        return self.own_cpu + max(self.reaped_cpu, self.lost_cpu)


@dataclass(slots=True)
class _Trace:
    """The samples so far: one entry a sample in each list."""

    time: list[float] = field(default_factory=list)
    rss: list[int] = field(default_factory=list)
    vsz: list[int] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


class ProcessTreeSampler:
    """Samples a process and its descendants until it ends or the block is left.

    A context manager that samples from a thread. Use it in a process that is not part of the tree
    and has nothing else to do: a sampler inside a busy process starves. To count the CPU time to
    the end, leave the block before the process is waited for (`os.waitid` with `WNOWAIT` waits
    without reaping).

    Parameters
    ----------
    pid
        The root of the tree.
    interval
        Time between samples, in seconds.

    Raises
    ------
    psutil.NoSuchProcess
        The process is not there at the start.
    """

    def __init__(self, pid: int, interval: float = 0.1) -> None:
        self.interval = interval
        self._root = psutil.Process(pid)
        self._members: dict[psutil.Process, _Member] = {}
        self._trace = _Trace()
        self._orphan_cpu = 0.0
        self._peak_pss: int | None = None
        self._pss_due = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="process-tree-sampler", daemon=True)

    def __enter__(self) -> Self:
        self._sample()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        start = time.monotonic()
        ticks = 0
        while self._members[self._root].alive:
            ticks = max(ticks + 1, int((time.monotonic() - start) / self.interval) + 1)
            stopped = self._stop.wait(start + ticks * self.interval - time.monotonic())
            self._sample()
            if stopped:
                return

    def _sample(self) -> None:
        sample = len(self._trace.time)
        self._find_members(sample)
        alive = [member for member in self._members.values() if member.alive]
        for member in alive:
            member.read(sample)
        dead = [member for member in alive if not member.alive]
        # Children first: what they leave to a parent that died with them goes on to its own.
        for member in reversed(dead):
            self._bury(member, dead)
        alive = [member for member in alive if member.alive]
        now = time.monotonic()
        # Once the tree is gone there is nothing to weigh; its CPU time still counts.
        if alive:
            cpu = self._orphan_cpu + sum(member.cpu for member in alive)
            self._trace.time.append(now)
            self._trace.rss.append(sum(member.rss for member in alive))
            self._trace.vsz.append(sum(member.vsz for member in alive))
            self._trace.cpu.append(max([cpu, *self._trace.cpu[-1:]]))
        if now >= self._pss_due:
            self._sample_pss(alive)

    def _find_members(self, sample: int) -> None:
        alive = [member for member in self._members.values() if member.alive]
        pids = {member.process.pid for member in alive}
        orphans = [member.process for member in alive if member.parent not in pids]
        found = [self._root]
        for process in dict.fromkeys([self._root, *orphans]):
            try:
                found += process.children(recursive=True)
            except psutil.Error:
                continue
        # Parents stay before their children: were a child read first and reaped meanwhile, its
        # CPU time would count twice.
        for process in dict.fromkeys(found):
            if process in self._members:
                continue
            try:
                parent = process.ppid()
            except psutil.Error:
                continue
            self._members[process] = _Member(process, parent, first_sample=sample)

    def _bury(self, member: _Member, dead: list[_Member]) -> None:
        """Hand the CPU time of a dead process to its parent, or keep it where nobody counts it.

        The parent may be among those that died since the last sample. Its own parent has then
        been told by the kernel of both.
        """
        for other in self._members.values():
            if other.process.pid == member.parent and (other.alive or other in dead):
                other.lost_cpu += member.cpu
                return
        self._orphan_cpu += member.cpu

    def _sample_pss(self, alive: list[_Member]) -> None:
        start = time.monotonic()
        total = 0
        for member in alive:
            try:
                total += getattr(member.process.memory_full_info(), "pss", 0)
            except psutil.Error:
                continue
        if total:
            self._peak_pss = max(total, self._peak_pss or 0)
        end = time.monotonic()
        self._pss_due = end + (end - start) / _PSS_SHARE

    def _peak_of_peaks(self) -> int:
        change = np.zeros(len(self._trace.time) + 1, np.int64)
        for member in self._members.values():
            change[member.first_sample] += member.high_water
            change[min(member.last_sample, len(change) - 2) + 1] -= member.high_water
        return int(np.cumsum(change).max())

    def summary(self, since: float | None = None, until: float | None = None) -> ProcessTreeSummary:
        """Peaks and means between two moments.

        Parameters
        ----------
        since, until
            Readings of `time.monotonic`, which all processes of a Linux machine share; None for
            the first and the last sample.
        """
        moments = np.asarray(self._trace.time)
        start = moments[0] if since is None else float(np.clip(since, moments[0], moments[-1]))
        end = moments[-1] if until is None else float(np.clip(until, start, moments[-1]))
        inside = moments[(moments > start) & (moments < end)]
        edges = np.concatenate([[start], inside, [end]])
        rss = np.interp(edges, moments, self._trace.rss)
        vsz = np.interp(edges, moments, self._trace.vsz)
        cpu = np.interp(edges, moments, self._trace.cpu)
        wall = float(end - start)
        return ProcessTreeSummary(
            wall_s=wall,
            peak_rss=int(rss.max()),
            mean_rss=_mean(edges, rss),
            mean_vsz=_mean(edges, vsz),
            peak_cpu_percent=_peak_rate(edges, cpu) * 100,
            mean_cpu_percent=float(cpu[-1] - cpu[0]) / wall * 100 if wall else 0.0,
            hwm_sum=self._peak_of_peaks(),
            peak_pss=self._peak_pss,
            samples=int(np.count_nonzero((moments >= start) & (moments <= end))),
            interval=float(np.diff(moments).mean()) if len(moments) > 1 else self.interval,
        )


def _high_water(pid: int) -> int | None:
    """Exact peak of a process's RSS in bytes, or None where the system does not tell."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None


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
