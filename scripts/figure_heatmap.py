"""Rule figure_heatmap: the table as a heat map."""

from harpy_core.workflow.script import running


def main(snakemake):
    """Read the table and draw it."""
    with running(snakemake):
        import anndata

        from harpy_core.figures import heatmap

        heatmap(anndata.read_zarr(snakemake.input.table), snakemake.output.figure)


if __name__ == "__main__":
    main(snakemake)
