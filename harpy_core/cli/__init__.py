"""The command `harpy-core`: both jobs for one image, without the workflow.

Its options are the keys of the config, with the same meanings, defaults and rules; its commands
call the package's own functions.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run this process's command line and exit with 0, or with 2 and one line that says why."""
    from harpy_core.cli.commands import run

    run()
