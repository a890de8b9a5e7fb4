"""Rule figure_sweep: memory, time and CPU of a stage over the number of workers."""

from harpy_core.workflow.script import running


def main(snakemake):
    """Read the sweep and draw its six panels."""
    with running(snakemake):
        from harpy_core.figures import sweep_panels

        sweep_panels(
            snakemake.input.sweep,
            snakemake.wildcards.stage,
            snakemake.output.figure,
        )


if __name__ == "__main__":
    main(snakemake)
