"""The command `harpy-core`: both jobs for who has one image and no workflow.

Its options are the keys of the config, with the same meanings, defaults and rules; what the
commands do is the package's own functions.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line of this process and end it: 0, or 2 with one line that says why."""
    from harpy_core.cli.commands import run

    run()
