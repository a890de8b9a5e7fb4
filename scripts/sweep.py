"""Rule sweep: the measured runs of a case as one table."""

from harpy_core.job import running


def main(snakemake):
    """Gather the rows."""
    with running(snakemake):
        from harpy_core.benchmark import collect

        collect(snakemake.input.rows, snakemake.output.table)


if __name__ == "__main__":
    main(snakemake)
