"""Rule report: Snakemake's own report of the run, which needs no network."""

import subprocess
import sys
import tempfile
from pathlib import Path

from harpy_core.workflow.script import running


def main(snakemake):
    """Let a second Snakemake, started as the first was, gather what this one made."""
    target = Path(snakemake.output.report)
    with running(snakemake) as logger, tempfile.TemporaryDirectory(dir=target.parent) as folder:
        report, look = Path(folder, target.name), Path(folder, "look.css")
        look.write_text(snakemake.params.look, encoding="utf-8")
        # The first Snakemake holds the lock of the working directory: --nolock.
        command = [sys.executable, "-m", "snakemake", "--nolock"]
        command += [*snakemake.params.start, "--report", str(report)]
        command += ["--report-stylesheet", str(look), "--", *snakemake.input]
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        logger.info("%s\n%s", " ".join(command), ended.stdout)
        ended.check_returncode()
        report.replace(target)


if __name__ == "__main__":
    main(snakemake)
