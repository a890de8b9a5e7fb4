"""A process that watches another and its descendants: memory, CPU time, bytes, faults.

It reads /proc; `harpy_core.benchmark.profiling` interprets the samples. It is a separate script
with the standard library alone, so that it starts fast and costs next to nothing.

    python sampler.py PID OUT.csv INTERVAL

It prints ``ready`` once the first sample is taken, samples until its input closes, takes a last
sample, and prints its own cost as JSON.
"""

from __future__ import annotations

import json
import os
import re
import select
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TextIO

COLUMNS = (
    "time",
    "pid",
    "start",
    "role",
    "rss",
    "vsz",
    "hwm",
    "cpu",
    "faults",
    "read",
    "written",
    "pss",
    "uss",
)
"""Columns of OUT.csv.

There is a line for each process and sample, and one of the role ``tree`` for all of them together,
which includes dead ones in ``cpu``, ``faults``, ``read`` and ``written``. ``time`` is a reading of
`time.monotonic`; memory and bytes are in bytes, ``cpu`` in seconds; ``pss`` and ``uss`` are empty
in the samples that do not weigh.
"""

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
# Shares of a core for taking samples, and for weighing (12 ms for a large process).
_SAMPLING_SHARE = 0.005
_WEIGHING_SHARE = 0.003
_WEIGH_EVERY = 1.0
# Seconds between searches for new processes; those gone sooner count in their parent's time.
_LOOK_EVERY = 0.2


def role_of(pid: int) -> str:
    """Role of a descendant of the driver: ``scheduler``, ``worker`` or ``other``."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as handle:
            words = handle.read().replace(b"\0", b" ").lower()
    except OSError:
        return "other"
    if b"resource_tracker" in words or b"forkserver" in words:
        return "other"
    if re.search(rb"dask[- _.]scheduler|distributed\.cli\.dask_scheduler", words):
        return "scheduler"
    if re.search(rb"spawn_main|dask[- _.]worker|distributed\.cli\.dask_worker", words):
        return "worker"
    return "other"


@dataclass(slots=True, eq=False)
class Process:
    """One process of the tree, as last seen.

    Its files stay open: they are never those of a stranger that reuses its number.
    """

    pid: int
    parent: int
    start: int
    role: str
    stat: int
    status: int
    io: int | None
    alive: bool = True
    zombie: bool = False
    rss: int = 0
    vsz: int = 0
    hwm: int = 0
    own_cpu: float = 0.0
    reaped_cpu: float = 0.0
    lost_cpu: float = 0.0
    faults: int = 0
    read: int = 0
    written: int = 0
    pss: int | None = None
    uss: int | None = None

    @classmethod
    def of(cls, pid: int, role: str) -> Process | None:
        """Open the process of a number; None if there is none."""
        opened: list[int] = []
        try:
            for name in ("stat", "status"):
                opened.append(os.open(f"/proc/{pid}/{name}", os.O_RDONLY))
            fields = _fields(os.pread(opened[0], 4096, 0))
        except OSError:
            for handle in opened:
                os.close(handle)
            return None
        try:
            io: int | None = os.open(f"/proc/{pid}/io", os.O_RDONLY)
        except OSError:
            io = None
        return cls(pid, int(fields[1]), int(fields[19]), role, opened[0], opened[1], io)

    def look(self) -> None:
        """Read the counters; a process that vanishes meanwhile keeps its earlier ones."""
        try:
            fields = _fields(os.pread(self.stat, 4096, 0))
            lines = os.pread(self.status, 8192, 0)
        except OSError:
            self._close()
            return
        self.zombie = fields[0] in b"ZX"
        self.parent = int(fields[1])
        self.own_cpu = (int(fields[11]) + int(fields[12])) * _TICK
        self.reaped_cpu = (int(fields[13]) + int(fields[14])) * _TICK
        self.faults = int(fields[9]) + int(fields[10])
        self.vsz, self.rss = int(fields[20]), int(fields[21]) * _PAGE
        found = lines.find(b"VmHWM:")
        if found >= 0:
            # The kernel updates VmHWM late: it can be some pages below the RSS.
            self.hwm = max(self.hwm, self.rss, int(lines[found + 6 : found + 30].split()[0]) * 1024)
        self._look_at_bytes()

    def _look_at_bytes(self) -> None:
        if self.io is None:
            return
        try:
            found = dict(
                line.split(b": ") for line in os.pread(self.io, 1024, 0).splitlines() if line
            )
        except OSError:
            return
        self.read, self.written = int(found[b"read_bytes"]), int(found[b"write_bytes"])

    def weigh(self) -> None:
        """Read PSS and USS, which walks the page tables, so not in every sample."""
        self.pss = self.uss = None
        try:
            with open(f"/proc/{self.pid}/smaps_rollup", "rb") as lines:
                found = {line.split()[0]: line.split()[1] for line in lines if b" kB" in line}
        except OSError:
            return
        if b"Pss:" in found:
            self.pss = int(found[b"Pss:"]) * 1024
            private = (found.get(f"Private_{kind}:".encode(), 0) for kind in ("Clean", "Dirty"))
            self.uss = sum(map(int, private)) * 1024

    @property
    def cpu(self) -> float:
        """CPU time of the process and its dead children, in seconds.

        The kernel's count of waited-for children misses those nobody waits for; the sum of what was
        last seen of each dead child misses what came after. The larger is closer.
        """
        return self.own_cpu + max(self.reaped_cpu, self.lost_cpu)

    def _close(self) -> None:
        self.alive = False
        for handle in (self.stat, self.status, self.io):
            if handle is not None:
                os.close(handle)


@dataclass(slots=True)
class Tree:
    """A process and its descendants, orphans among them.

    Attributes
    ----------
    root
        First of them, the driver.
    members
        Processes that are alive, parents before their children: if a child were read first and
        reaped meanwhile, its CPU time would count twice.
    gone
        CPU seconds, faults, bytes read and written of dead processes that no parent counts.
    """

    root: Process
    members: list[Process] = field(default_factory=list)
    strangers: set[int] = field(default_factory=set)
    gone: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0, 0.0])
    highest: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0, 0.0])

    def find(self) -> None:
        """Find new descendants, and other processes of the root's session."""
        numbers = {int(name) for name in os.listdir("/proc") if name.isdigit()}
        known = {member.pid for member in self.members}
        # A number that was released may be reused by a process of ours.
        self.strangers &= numbers
        new = {pid: _kin(pid) for pid in sorted(numbers - known - self.strangers)}
        found = True
        while found:
            found = False
            for pid in [pid for pid, kin in new.items() if not known.isdisjoint(kin)]:
                found = True
                del new[pid]
                process = Process.of(pid, role_of(pid))
                if process is not None:
                    self.members.append(process)
                    known.add(pid)
        self.strangers |= set(new)

    def look(self) -> None:
        """Read all counters, and account for the dead."""
        for member in self.members:
            member.look()
        dead = [member for member in self.members if not member.alive]
        # Children first: what they leave to a parent that died with them is passed on to its own.
        for member in reversed(dead):
            self._bury(member, dead)
        self.members = [member for member in self.members if member.alive]

    def _bury(self, member: Process, dead: Iterable[Process]) -> None:
        """Add the CPU time of a dead process to its parent, or keep it if nobody counts it.

        The parent may be among those that died since the last sample. The kernel has then added
        both to its own parent.
        """
        for other in self.members:
            if other.pid == member.parent and (other.alive or other in dead):
                other.lost_cpu += member.cpu
                return
        left = (member.cpu, member.faults, member.read, member.written)
        self.gone = [a + b for a, b in zip(self.gone, left, strict=True)]

    def totals(self) -> list[float]:
        """CPU seconds, faults, bytes read and written of all processes, including dead ones."""
        sums = list(self.gone)
        for member in self.members:
            for place, value in enumerate((member.cpu, member.faults, member.read, member.written)):
                sums[place] += value
        self.highest = [max(a, b) for a, b in zip(self.highest, sums, strict=True)]
        return self.highest


def _kin(pid: int) -> tuple[int, ...]:
    """Numbers of a process's parent and of its session's leader; none if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as handle:
            fields = _fields(handle.read())
    except OSError:
        return ()
    return int(fields[1]), int(fields[3])


def _fields(content: bytes) -> list[bytes]:
    """Fields of /proc/PID/stat from the state on; the name before it may hold anything."""
    return content[content.rindex(b")") + 2 :].split()


class Sampler:
    """Writer of the samples of a tree, at its own pace."""

    def __init__(self, pid: int, out: TextIO, interval: float) -> None:
        root = Process.of(pid, "driver")
        if root is None:
            raise ProcessLookupError(f"there is no process {pid}")
        self._tree = Tree(root, [root])
        self._out = out
        self._interval = interval
        self._look_due = self._weigh_due = 0.0
        out.write(",".join(COLUMNS) + "\n")
        self._samples = self._weighings = 0
        self._weighing = 0.0
        self._started = self._last = time.monotonic()
        self.sample(whole=True)
        # The first sample reads every process of the machine once, before anything is measured.
        self._cpu_at_start = time.process_time()
        self._weighing = 0.0

    def sample(self, whole: bool = False) -> None:
        """Take one sample; `whole` looks for new processes even if that is not due."""
        now = self._last = time.monotonic()
        if whole or now >= self._look_due:
            self._tree.find()
            self._look_due = now + _LOOK_EVERY
        self._tree.look()
        for member in self._tree.members:
            member.pss = member.uss = None
        if now >= self._weigh_due:
            self._weigh(now)
        # Once the tree is gone there is nothing to weigh; its CPU time still counts.
        if self._tree.members:
            self._write(now)
        self._samples += 1

    def _weigh(self, now: float) -> None:
        before = time.process_time()
        for member in self._tree.members:
            member.weigh()
        taken = time.process_time() - before
        self._weighing += taken
        self._weighings += 1
        self._weigh_due = now + max(_WEIGH_EVERY, taken / _WEIGHING_SHARE)

    def pause(self) -> float:
        """Seconds to wait before the next sample, so that sampling keeps within its share."""
        used = time.process_time() - self._cpu_at_start - self._weighing
        affordable = self._started + used / _SAMPLING_SHARE
        return max(self._last + self._interval, affordable) - time.monotonic()

    def _write(self, now: float) -> None:
        members = [member for member in self._tree.members if not member.zombie]
        for m in members:
            self._line(
                (now, m.pid, m.start, m.role, m.rss, m.vsz, m.hwm, m.cpu, m.faults),
                (m.read, m.written, m.pss, m.uss),
            )
        cpu, faults, read, written = self._tree.totals()
        weights = [(m.pss, m.uss) for m in members if m.pss is not None and m.uss is not None]
        pss, uss = map(sum, zip(*weights, strict=True)) if weights else (None, None)
        sums = (sum(m.rss for m in members), sum(m.vsz for m in members))
        peaks = sum(m.hwm for m in members)
        root = self._tree.root
        self._line(
            (now, root.pid, root.start, "tree", *sums, peaks, cpu, int(faults)),
            (int(read), int(written), pss, uss),
        )

    def _line(self, *parts: tuple[object, ...]) -> None:
        values = [value for part in parts for value in part]
        self._out.write(",".join("" if v is None else str(v) for v in values) + "\n")

    def cost(self) -> dict[str, float]:
        """Share of a core that sampling took, in percent, and its mean intervals, in seconds."""
        wall = max(self._last - self._started, 1e-9)
        return {
            "cost_percent": (time.process_time() - self._cpu_at_start) / wall * 100,
            "interval": wall / max(self._samples - 1, 1),
            "pss_interval": wall / max(self._weighings - 1, 1),
        }


def main(pid: str, path: str, interval: str) -> int:
    """Sample until the input closes."""
    with open(path, "w", encoding="utf-8") as out:
        try:
            sampler = Sampler(int(pid), out, float(interval))
        except ProcessLookupError as error:
            print(error, file=sys.stderr)
            return 1
        print("ready", flush=True)
        while not select.select([0], [], [], max(sampler.pause(), 0))[0]:
            sampler.sample()
        sampler.sample(whole=True)
    print(json.dumps(sampler.cost()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
