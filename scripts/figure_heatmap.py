"""Rule figure_heatmap: the table as a heat map."""

from harpy_core.workflow.script import running


def main(snakemake):
    """Draw the table, which is read a slab at a time."""
    with running(snakemake):
        from harpy_core.figures import heatmap

        heatmap(snakemake.input.table, snakemake.output.figure)


if __name__ == "__main__":
    main(snakemake)
