"""Rule sweep: the measured runs of a case as one table."""

from harpy_core.workflow.script import running


def main(snakemake):
    """Gather the rows."""
    with running(snakemake):
        from harpy_core.benchmark.sweep import collect

        collect(snakemake.input.rows, snakemake.output.table)


if __name__ == "__main__":
    main(snakemake)
