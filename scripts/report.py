"""Rule report: Snakemake's own report of the run, which needs no network."""

import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from harpy_core.workflow.script import running


def main(snakemake):
    """Let a second Snakemake, on the same config, gather what this one made."""
    target = Path(snakemake.output.report)
    with running(snakemake) as logger, tempfile.TemporaryDirectory(dir=target.parent) as folder:
        config = Path(folder, "config.yaml")
        config.write_text(yaml.safe_dump(snakemake.config), encoding="utf-8")
        snakefile = Path(__file__).parents[1] / "workflow" / "Snakefile"
        report = Path(folder, target.name)
        # The first Snakemake holds the lock of the working directory: --nolock.
        command = [sys.executable, "-m", "snakemake", "--nolock", "--quiet", "all"]
        command += ["--snakefile", str(snakefile), "--configfile", str(config)]
        command += ["--report", str(report), "--", "figures"]
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        logger.info("%s\n%s", " ".join(command), ended.stdout)
        ended.check_returncode()
        report.replace(target)


if __name__ == "__main__":
    main(snakemake)
