"""Processes that leave their memory to the system: they end as others do."""

from __future__ import annotations

import subprocess
import sys

import pytest

SAID = """
import atexit
from harpy_core.running.ending import leave, leave_at_exit

class Torn:
    def __del__(self):
        print("torn down")

kept = Torn()
print("said", end=" ")
{how}
print("not reached" if {left} else "reached", end=" ")
"""


@pytest.mark.parametrize(
    ("how", "left", "status", "said"),
    [
        ("atexit.register(print, 'at exit', end=' '); leave(3)", True, 3, "said at exit "),
        ("leave()", True, 0, "said "),
        ("leave_at_exit(); atexit.register(print, 'at exit')", False, 0, "said reached at exit\n"),
    ],
)
def test_a_process_leaves_with_its_status_and_all_it_said(
    how: str, left: bool, status: int, said: str
) -> None:
    program = SAID.format(how=how, left=left)
    ended = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stdout) == (status, said)
