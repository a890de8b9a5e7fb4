"""Rule one_read: what the table and the crops need of the image, from one read of it."""

from harpy_core.workflow.script import running, workers


def main(snakemake):
    """Commit what both jobs would; they go on from there, as after a run that was killed."""
    with running(snakemake) as logger:
        from pathlib import Path

        from harpy_core.aggregate.store import TableJob
        from harpy_core.extract.extraction import stored_ratio
        from harpy_core.extract.one_read import read_once
        from harpy_core.instances.finding import Instances
        from harpy_core.planning.plan import densest_tile, table_settings
        from harpy_core.raster import RasterInfo, open_described
        from harpy_core.storage.manifest import refuse_changed, write_json
        from harpy_core.workflow.asked import crop_settings, cropped, table_arguments

        folder = Path(snakemake.output.read).parent
        table, crops = folder / "table.zarr", folder / "crops.zarr"
        there = [str(store) for store in (table, crops) if store.exists()]
        if there:
            # What is left to do reads what it needs.
            logger.info("%s: already there: nothing is read", ", ".join(there))
            write_json(snakemake.output.read, {"read": False})
            return
        aggregate, extract = snakemake.params.aggregate, snakemake.params.extract
        info = RasterInfo.from_json(snakemake.input.raster)
        raster = open_described(info)
        settings = crop_settings(extract, raster)
        refuse_changed(snakemake.input.instances, snakemake.input.manifest)
        instances = Instances.read(snakemake.input.instances)
        chosen = cropped(extract, instances)
        arguments = table_arguments(aggregate, info, raster)
        found = {"instances": len(instances), "densest": densest_tile(info, instances)}
        planned = table_settings(aggregate) | found
        planned |= {"crops": settings, "ratio": stored_ratio(raster, chosen, settings)}
        with workers(snakemake, "one_read", info, **planned) as client:
            job = TableJob.of(
                raster.image,
                raster.labels,
                table,
                instances,
                engine=snakemake.params.engine,
                client=client,
                **arguments,
            )
            windows = {**settings.model_dump(), "index": chosen.id}
            read = read_once(job, crops, windows, client, progress=True)
        write_json(snakemake.output.read, {"read": read})


if __name__ == "__main__":
    main(snakemake)
