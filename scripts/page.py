"""Rule page: an image's fullest field with its segmentation, statistics and windows, linked."""

from harpy_core.workflow.script import running


def main(snakemake):
    """Read the field and the statistics of its instances, and write the page."""
    with running(snakemake) as logger:
        from harpy_core.raster import RasterInfo, open_described
        from harpy_core.viewing.pages import write_page

        raster = open_described(RasterInfo.from_json(snakemake.input.raster))
        shown = write_page(
            raster,
            snakemake.input.table,
            snakemake.output.page,
            title=snakemake.wildcards.case,
            window=snakemake.params.window,
        )
        logger.info("%d instances", shown)


if __name__ == "__main__":
    main(snakemake)
