"""Time that jobs are given by batch systems, which end those that take longer: from the plan."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harpy_core.planning.parts import Plan

BYTES_PER_SECOND = 10**9
"""Decoded bytes that one core reads and writes in a second. Recorded on two cores, for one of them
(results/recorded): 2.1e9 for the means of a terapixel, 1.3e9 for crops, 0.7e9 for a label pass."""

SLACK = 10
"""Factor for what the recorded runs did not have: distinct files on a busy disk that all nodes
share, many statistics, floats, the engine numpy. A job that needs more has more in the next try."""

START_MINUTES = 10
"""Minutes for what does not grow with the image: imports, compilation, the start of workers."""

PEER_TIMES = 120
"""Times as long as ours that the peer may take; 111 were recorded, for six statistics."""


def stage_minutes(plan: Plan, cores: int, times: int = 1) -> int:
    """Minutes that a stage is given.

    Parameters
    ----------
    plan
        Plan of the stage.
    cores
        Number of its tasks that run at the same time.
    times
        Factor of a slower program.
    """
    seconds = times * SLACK * plan.bytes_moved / (BYTES_PER_SECOND * cores)
    return START_MINUTES + math.ceil(seconds / 60)
