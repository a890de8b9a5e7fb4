"""Rule figure_tissue: the tissue, with the outlines of its instances."""

from harpy_core.workflow.script import running


def main(snakemake):
    """Read a part of the image and draw it."""
    with running(snakemake):
        from harpy_core.figures import tissue
        from harpy_core.raster import RasterInfo, open_described
        from harpy_core.workflow.asked import ranges

        raster = open_described(RasterInfo.from_json(snakemake.input.raster))
        shown = ranges(snakemake.input.counted, (1, 99.8), inside=False)
        tissue(raster, snakemake.output.figure, shown)


if __name__ == "__main__":
    main(snakemake)
