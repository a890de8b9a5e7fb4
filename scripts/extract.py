"""Rule extract: one centred crop of every instance."""

from harpy_core.job import running, workers


def main(snakemake):
    """Read the image once and write the crops; what an earlier, killed job did is kept."""
    with running(snakemake) as logger:
        from harpy_core.extract import extract_instances
        from harpy_core.instances import Instances
        from harpy_core.manifest import write_manifest
        from harpy_core.raster import RasterInfo, open_described

        info = RasterInfo.from_json(snakemake.input.raster)
        raster = open_described(info)
        instances = Instances.read(snakemake.input.instances)
        settings = snakemake.params.extract
        with workers(snakemake, "extract", info, instances=len(instances), **settings) as client:
            crops = extract_instances(
                raster.image,
                raster.labels,
                snakemake.output.crops,
                channels=raster.channels,
                instances=instances,
                client=client,
                overwrite=True,
                progress=True,
                **settings,
            )
        logger.info("%d crops", len(crops))
        write_manifest(
            snakemake.output.manifest,
            kind="crops",
            digest=crops.digest,
            instances=len(crops),
            channels=raster.channels,
            **settings,
        )


if __name__ == "__main__":
    main(snakemake)
