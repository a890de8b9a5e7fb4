"""Rule aggregate: statistics of every channel in every instance."""

from functools import partial

from harpy_core.workflow.script import running, workers


def main(snakemake):
    """Read the image once and write the table."""
    with running(snakemake) as logger:
        from harpy_core.aggregate.layers import made_layers
        from harpy_core.aggregate.store import aggregate_to_store
        from harpy_core.instances.finding import Instances
        from harpy_core.planning.plan import densest_tile
        from harpy_core.raster import RasterInfo, open_described, open_layer
        from harpy_core.statistics.asked import of_section
        from harpy_core.storage.manifest import refuse_changed, tree_digest, write_manifest

        info = RasterInfo.from_json(snakemake.input.raster)
        raster = open_described(info)
        refuse_changed(snakemake.input.instances, snakemake.input.found)
        instances = Instances.read(snakemake.input.instances)
        settings = snakemake.params.aggregate
        stats = of_section(settings)
        layers = settings["layers"]
        read = ("layers", "derived", "neighbors", "whole_channels")
        planned = {name: settings[name] for name in read}
        planned |= {"stats": stats, "instances": len(instances)}
        planned["densest"] = densest_tile(info, instances)
        with workers(snakemake, "aggregate", info, **planned) as client:
            aggregate_to_store(
                raster.image,
                raster.labels,
                snakemake.output.table,
                instances,
                stats=stats,
                channels=raster.channels,
                engine=snakemake.params.engine,
                client=client,
                progress=True,
                strict=info.strict,
                ignore_nan=settings["ignore_nan"],
                whole_channels=settings["whole_channels"],
                spacing=raster.spacing_of(settings["spacing"]),
                neighbors=settings["neighbors"],
                layers=made_layers(layers, raster, partial(open_layer, info)),
                derived=settings["derived"],
                region=next(iter(raster.layers)),
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
