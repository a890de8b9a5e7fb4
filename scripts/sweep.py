"""Rule sweep: every measured run of a case, as one table."""

from pathlib import Path

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
            Path(snakemake.output.table).with_name("runs"),
            snakemake.output.table,
            snakemake.output.samples,
            logs=Path(snakemake.log[0]).with_name("benchmark"),
        )


if __name__ == "__main__":
    main(snakemake)
