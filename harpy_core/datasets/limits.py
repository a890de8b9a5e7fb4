"""Limits of what is unpacked: numbers alone, shared by the plan and the job."""

from __future__ import annotations

MOST_FILES = 1_000_000
"""Files of an archive, at most; the published ones have some 30,000."""

ENTRY_BYTES = 1500
"""Memory that an entry of an archive takes, with the path that it is written to (measured)."""
