"""Rule instances: id, area, centroid and bounding box of every instance."""

from harpy_core.workflow.script import running, workers


def main(snakemake):
    """Read the labels once and write their instances."""
    with running(snakemake) as logger:
        from harpy_core.instances.finding import find_instances
        from harpy_core.planning.plan import densest_tile
        from harpy_core.raster import RasterInfo, open_described
        from harpy_core.storage.manifest import tree_digest, write_manifest

        info = RasterInfo.from_json(snakemake.input.raster)
        labels = open_described(info).labels
        with workers(snakemake, "instances", info) as client:
            instances = find_instances(
                labels,
                engine=snakemake.params.engine,
                client=client,
                progress=True,
                strict=info.strict,
            )
        instances.write(snakemake.output.store)
        logger.info("%d instances", len(instances))
        write_manifest(
            snakemake.output.manifest,
            kind="instances",
            digest=tree_digest(snakemake.output.store),
            instances=len(instances),
            densest_tile=densest_tile(info, instances),
        )


if __name__ == "__main__":
    main(snakemake)
