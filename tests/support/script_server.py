"""Scripts of rules in processes that are forked from one which has imported what they need.

Importing takes longer than what a script does in a small case. Snakemake is given `interpreter()`
as its Python: a file that hands a script over to the server, with its streams, folder and
environment, waits for it, and ends as it did. Anything but a script goes to the real Python.
"""

from __future__ import annotations

import builtins
import functools
import gc
import importlib
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

MODULES = (
    "snakemake.script",
    "harpy_core.aggregate.store",
    "harpy_core.extract.extraction",
    "harpy_core.extract.finishing",
    "harpy_core.figures",
    "harpy_core.instances.finding",
    "harpy_core.planning.plan",
    "harpy_core.raster",
    "harpy_core.running.cluster",
    "harpy_core.tiling.tile",
    "harpy_core.viewing.site",
    "harpy_core.workflow.asked",
    "harpy_core.workflow.crates",
    "harpy_core.workflow.script",
)
"""Imported before the first script is forked."""

_CLIENT = """#!{python} -SE
import json, os, signal, socket, sys
script = sys.argv[1] if len(sys.argv) == 2 else ""
if not script.endswith(".py"):
    os.execv("{python}", ["{python}", *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX)
server.connect("{address}")
given = json.dumps([os.path.abspath(script), os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(given).to_bytes(8, "little")], [0, 1, 2])
server.sendall(given)
answers = server.makefile("r")
process = int(answers.readline())
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, _: os.kill(process, number))
status = int(answers.readline())
if status < 0:
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
"""


_servers: list[subprocess.Popen[bytes]] = []
"""That of this process; it ends when nobody can write to its input any more."""


@functools.cache
def interpreter() -> Path:
    """Start the server of this process, and return the file that takes the place of Python."""
    from harpy_core.running.workers import ONE_THREAD

    folder = Path(tempfile.mkdtemp(prefix="scripts-"))
    address, client = folder / "server", folder / "python"
    client.write_text(_CLIENT.format(python=sys.executable, address=address), encoding="utf-8")
    client.chmod(0o700)
    # Threads of libraries, and what Dask logs, are settled on import.
    settled = {**ONE_THREAD, "DASK_LOGGING__DISTRIBUTED": "warning"}
    server = subprocess.Popen(
        [sys.executable, __file__, str(address)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **settled},
    )
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    _servers.append(server)
    return client


def serve(address: str) -> None:
    """Fork a process for each script that is handed over, until the tests have ended."""
    for module in MODULES:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening, selectors.DefaultSelector() as ready:
        listening.bind(address)
        listening.listen()
        print("ready", flush=True)
        ready.register(listening, selectors.EVENT_READ)
        ready.register(sys.stdin, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fileobj is sys.stdin:
                    shutil.rmtree(Path(address).parent, ignore_errors=True)
                    return
                connection, _ = listening.accept()
                if os.fork() == 0:
                    ready.close()
                    listening.close()
                    _answer(connection)
                connection.close()


def _answer(connection: socket.socket) -> None:
    """Fork the script's process, tell its number, and how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, streams, _, _ = socket.recv_fds(connection, 8, 3)
    left, content = int.from_bytes(size, "little"), b""
    while len(content) < left:
        content += connection.recv(left - len(content))
    process = os.fork()
    if process == 0:
        connection.close()
        _run(streams, *json.loads(content))
    connection.sendall(f"{process}\n".encode())
    _, status = os.waitpid(process, 0)
    connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _run(streams: list[int], script: str, folder: str, environment: dict[str, str]) -> None:
    """Become the process of a script, as Python does."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [script]
    sys.path[0] = str(Path(script).parent)
    main: Any = types.ModuleType("__main__")
    main.__file__, main.__builtins__ = script, builtins
    sys.modules["__main__"] = main
    exec(compile(Path(script).read_bytes(), script, "exec"), main.__dict__)
    sys.exit()


if __name__ == "__main__":
    serve(sys.argv[1])
