"""Rule extract: one centred crop of every instance."""

from harpy_core.workflow.script import running, workers


def main(snakemake):
    """Read the image once and write the crops; the work of an earlier, killed job is kept."""
    with running(snakemake) as logger:
        from harpy_core.extract.extraction import (
            committed_bytes,
            extract_instances,
            stored_ratio,
        )
        from harpy_core.instances.finding import Instances
        from harpy_core.planning.plan import densest_tile
        from harpy_core.raster import RasterInfo, open_described
        from harpy_core.storage.manifest import refuse_changed, write_manifest
        from harpy_core.workflow.asked import crop_settings, cropped

        section = snakemake.params.extract
        info = RasterInfo.from_json(snakemake.input.raster).choosing(section["channels"])
        raster = open_described(info)
        settings = crop_settings(section, raster)
        refuse_changed(snakemake.input.instances, snakemake.input.manifest)
        instances = cropped(section, Instances.read(snakemake.input.instances))
        planned = {
            "instances": len(instances),
            "densest": densest_tile(info, instances),
            "crops": settings,
            "ratio": stored_ratio(raster, instances, settings),
            "committed": committed_bytes(
                raster, instances, settings, snakemake.output.crops, info.strict
            ),
        }
        with workers(snakemake, "extract", info, **planned) as client:
            crops = extract_instances(
                raster.image,
                raster.labels,
                snakemake.output.crops,
                channels=raster.channels,
                instances=instances,
                engine=snakemake.params.engine,
                client=client,
                overwrite=True,
                progress=True,
                strict=info.strict,
                **settings.model_dump(),
            )
        logger.info("%d crops", len(crops))
        write_manifest(
            snakemake.output.manifest,
            kind="crops",
            digest=crops.digest,
            instances=len(crops),
            channels=raster.channels,
            **settings.model_dump(),
        )


if __name__ == "__main__":
    main(snakemake)
