"""Rule aggregate: statistics of every channel in every instance."""

from harpy_core.workflow.script import running, workers


def main(snakemake):
    """Read the image once and write the table."""
    with running(snakemake) as logger:
        from harpy_core.aggregate.store import aggregate_to_store
        from harpy_core.instances.finding import Instances
        from harpy_core.planning.plan import densest_tile, table_settings
        from harpy_core.raster import RasterInfo, open_described
        from harpy_core.storage.manifest import refuse_changed, tree_digest, write_manifest
        from harpy_core.workflow.asked import table_arguments

        info = RasterInfo.from_json(snakemake.input.raster)
        raster = open_described(info)
        refuse_changed(snakemake.input.instances, snakemake.input.found)
        instances = Instances.read(snakemake.input.instances)
        settings = snakemake.params.aggregate
        found = {"instances": len(instances), "densest": densest_tile(info, instances)}
        planned = table_settings(settings) | found
        arguments = table_arguments(settings, info, raster)
        with workers(snakemake, "aggregate", info, **planned) as client:
            aggregate_to_store(
                raster.image,
                raster.labels,
                snakemake.output.table,
                instances,
                engine=snakemake.params.engine,
                client=client,
                progress=True,
                **arguments,
            )
        logger.info("%d instances x %d channels", len(instances), len(raster.channels))
        write_manifest(
            snakemake.output.manifest,
            kind="table",
            digest=tree_digest(snakemake.output.table),
            instances=len(instances),
            channels=raster.channels,
            stats=settings["stats"],
            **({"own_code": snakemake.params.own} if snakemake.params.own else {}),
        )


if __name__ == "__main__":
    main(snakemake)
