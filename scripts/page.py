"""Rule page: an image's fullest field with its segmentation, statistics and crops, linked."""

from harpy_core.workflow.script import running


def main(snakemake):
    """Read the field, the statistics and the crops of its instances, and write the page."""
    with running(snakemake) as logger:
        from harpy_core.raster import RasterInfo, open_described
        from harpy_core.viewing.pages import write_page

        crops = [name.replace(".manifest.json", ".zarr") for name in snakemake.input.crops]
        raster = open_described(RasterInfo.from_json(snakemake.input.raster))
        shown = write_page(
            raster,
            snakemake.input.table,
            snakemake.output.page,
            title=snakemake.wildcards.case,
            window=snakemake.params.window,
            crops=next(iter(crops), None),
        )
        logger.info("%d instances", shown)


if __name__ == "__main__":
    main(snakemake)
