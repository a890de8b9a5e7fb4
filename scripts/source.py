"""Rule source: the description of a case's image and labels."""

from harpy_core.workflow.script import running


def main(snakemake):
    """Read the source's metadata and write its description."""
    with running(snakemake) as logger:
        from harpy_core.planning.rasters import describe_source

        info = describe_source(snakemake.params.source)
        logger.info("image %s %s, labels %s", info.image_shape, info.image_dtype, info.labels_shape)
        info.to_json(snakemake.output.raster)


if __name__ == "__main__":
    main(snakemake)
