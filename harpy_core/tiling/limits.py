"""Limits of what tiling holds in memory: numbers alone, shared by the plan and the job."""

from __future__ import annotations

IN_MEMORY = 2**30
"""Bytes: the chunks of a smaller source are decoded once, and kept."""

HELD = 2**28
"""Bytes of a larger source that a thread holds, for files that are made of the same chunks."""

AT_WORK = 2
"""Files worked on for each core: one is encoded while another is on its way to the disk."""
