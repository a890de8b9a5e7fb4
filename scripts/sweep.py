"""Rule sweep: every measured run of a case, as one table."""

from harpy_core.workflow.script import running


def main(snakemake):
    """Measure what was not measured before, and gather the rows."""
    with running(snakemake):
        from harpy_core.benchmark.sweep import Sweep, run

        sweep = Sweep(
            case=snakemake.wildcards.case,
            raster_json=snakemake.input.raster,
            **snakemake.params.sweep,
        )
        run(
            sweep,
            snakemake.params.kept,
            snakemake.output.table,
            snakemake.output.samples,
            logs=snakemake.params.runs,
        )


if __name__ == "__main__":
    main(snakemake)
