"""Rule figure_overview: one page on all sweeps."""

from harpy_core.workflow.script import running


def main(snakemake):
    """Read all sweeps and draw the page."""
    with running(snakemake):
        from harpy_core.figures import overview

        overview(snakemake.input.sweeps, snakemake.output.figure)


if __name__ == "__main__":
    main(snakemake)
