"""A SLURM of one node on the loopback interface: three daemons, no systemd, no accounting.

    python tests/slurm/one_node.py start FOLDER [--cpus 8] [--memory 8000]
    python tests/slurm/one_node.py stop FOLDER

It needs root and Debian's packages slurm-wlm and munge, or their like. Keys, state, spool and logs
are in FOLDER; outside of it only the link /etc/slurm/slurm.conf is made, because jobs are stripped
of the variable that would tell them of a configuration elsewhere.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

CONFIGURATION = Path("/etc/slurm/slurm.conf")
DAEMONS = ("munged", "slurmctld", "slurmd")
_READY_SECONDS = 30
_STOP_SECONDS = 15

# The node may declare more cores than the machine has (config_overrides), so that jobs run side by
# side on a small one; memory is counted from the processes, and a job above its share is killed.
_SLURM_CONF = """\
ClusterName=loop
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/run/munge.sock
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.log
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000,sched_interval=5,bf_interval=5
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
ReturnToService=2
MinJobAge=300
SlurmdParameters=config_overrides
EnforcePartLimits=ALL
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} Boards=1 SocketsPerBoard=1 CoresPerSocket={cpus} \
ThreadsPerCore=1 Features=near RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def obstacle() -> str | None:
    """Return what keeps a one-node SLURM from being started here, or None."""
    missing = [name for name in (*DAEMONS, "sbatch") if _program(name) is None]
    if missing:
        return f"SLURM is not installed: no {', '.join(missing)}"
    if os.geteuid() != 0:
        return "only root can start SLURM's daemons"
    if os.path.lexists(CONFIGURATION):
        return f"a SLURM is configured here already: {CONFIGURATION}"
    return None


def start(folder: Path, cpus: int = 8, memory: int = 8000) -> None:
    """Start the daemons and wait until the node takes jobs.

    Parameters
    ----------
    folder
        Where everything of this SLURM is kept; made where it is not there.
    cpus, memory
        Cores and MiB that the node declares; more cores than the machine has will do.

    Raises
    ------
    RuntimeError
        SLURM cannot be started here, or the node does not get ready.
    """
    hindered = obstacle()
    if hindered:
        raise RuntimeError(hindered)
    folder = folder.resolve()
    _write_files(folder, cpus, memory)
    CONFIGURATION.parent.mkdir(parents=True, exist_ok=True)
    CONFIGURATION.symlink_to(folder / "slurm.conf")
    try:
        _start_munged(folder)
        _call("slurmctld", "-c", "-f", str(folder / "slurm.conf"))
        _call("slurmd", "-f", str(folder / "slurm.conf"))
        _wait_until(_node_is_idle, _READY_SECONDS, f"the node is not ready: see {folder}/log")
    except BaseException:
        stop(folder)
        raise


def stop(folder: Path) -> None:
    """Cancel all jobs, stop the daemons and remove the link; what is not there is passed over."""
    folder = folder.resolve()
    if _is_ours(folder):
        _cancel_all()
    for name in reversed(DAEMONS):
        _stop_daemon(folder / "run" / f"{name}.pid", name)
    if _is_ours(folder):
        CONFIGURATION.unlink()


@contextmanager
def one_node(folder: Path, cpus: int = 8, memory: int = 8000) -> Iterator[None]:
    """A one-node SLURM for the length of the block; see `start`."""
    start(folder, cpus, memory)
    try:
        yield
    finally:
        stop(folder)


def _program(name: str) -> str | None:
    """Path of a program; the daemons are often in folders that only root's PATH has."""
    return shutil.which(name) or shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin")


def _call(name: str, *arguments: str) -> str:
    """Output of a program that has to succeed."""
    program = _program(name)
    if program is None:
        raise RuntimeError(f"{name} is not installed")
    ended = subprocess.run([program, *arguments], capture_output=True, text=True)
    if ended.returncode != 0:
        raise RuntimeError(f"{name} failed: {ended.stderr.strip() or ended.stdout.strip()}")
    return ended.stdout


def _write_files(folder: Path, cpus: int, memory: int) -> None:
    # Open to be passed through, or others than root could not reach the socket and munged refuses.
    folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    for name in ("run", "state", "spool", "log"):
        (folder / name).mkdir(exist_ok=True, mode=0o755)
    private = folder / "munge"
    private.mkdir(exist_ok=True, mode=0o700)
    key = private / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(1024))
    host = socket.gethostname().partition(".")[0]
    settings = _SLURM_CONF.format(host=host, folder=folder, cpus=cpus, memory=memory)
    (folder / "slurm.conf").write_text(settings, encoding="utf-8")


def _start_munged(folder: Path) -> None:
    private = folder / "munge"
    _call(
        "munged",
        # Only a warning where a folder above is private to root, as temporary ones are.
        "--force",
        f"--key-file={private}/munge.key",
        f"--seed-file={private}/munge.seed",
        f"--socket={folder}/run/munge.sock",
        f"--pid-file={folder}/run/munged.pid",
        f"--log-file={folder}/log/munged.log",
    )


def _node_is_idle() -> bool:
    try:
        return _call("sinfo", "--noheader", "--format=%T").strip() == "idle"
    except RuntimeError:
        return False


def _is_ours(folder: Path) -> bool:
    return CONFIGURATION.is_symlink() and CONFIGURATION.readlink() == folder / "slurm.conf"


def _cancel_all() -> None:
    """End every job, so that no process of one outlives the daemons."""
    try:
        _call("scancel", "--user=root")
        _wait_until(
            lambda: not _call("squeue", "--noheader").strip(), _STOP_SECONDS, "jobs do not end"
        )
    except RuntimeError as error:
        print(f"{error}: stopping the daemons nevertheless", file=sys.stderr)


def _stop_daemon(pid_file: Path, name: str) -> None:
    try:
        pid = int(pid_file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return
    for sent in (signal.SIGTERM, signal.SIGKILL):
        if not _runs(pid, name):
            break
        os.kill(pid, sent)
        try:
            _wait_until(lambda: not _runs(pid, name), _STOP_SECONDS, f"{name} does not stop")
        except RuntimeError as error:
            print(error, file=sys.stderr)
    pid_file.unlink(missing_ok=True)


def _runs(pid: int, name: str) -> bool:
    """Whether a process exists and is the expected daemon: process ids are reused."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    command, _, rest = stat.partition("(")[2].rpartition(")")
    return command == name and rest.split()[0] != "Z"


def _wait_until(reached: Callable[[], bool], seconds: float, failure: str) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > deadline:
            raise RuntimeError(failure)
        time.sleep(0.2)


def main() -> None:
    """Start or stop, from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("action", choices=["start", "stop"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cpus", type=int, default=8, help="cores that the node declares")
    parser.add_argument("--memory", type=int, default=8000, help="MiB that the node declares")
    given = parser.parse_args()
    if given.action == "stop":
        stop(given.folder)
        return
    try:
        start(given.folder, given.cpus, given.memory)
    except RuntimeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
