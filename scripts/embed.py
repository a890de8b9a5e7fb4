"""Rule embed: numbers that a model gives for each crop."""

from harpy_core.workflow.script import running, workers_for


def main(snakemake):
    """Run the model over the crops; the work of an earlier, killed job is kept."""
    with running(snakemake) as logger:
        from harpy_core.config.crops import Extract
        from harpy_core.config.measures import Embed
        from harpy_core.embedding.embedding import embed
        from harpy_core.planning.embed_plan import embed_plan
        from harpy_core.raster import RasterInfo
        from harpy_core.statistics.channels import channel_percentiles
        from harpy_core.storage.manifest import read_manifest, tree_digest, write_manifest
        from harpy_core.workflow.asked import counts

        settings = dict(snakemake.params.embed)
        crops = read_manifest(snakemake.input.manifest)
        plan = embed_plan(
            Embed.model_validate(settings),
            Extract.model_validate(snakemake.params.extract),
            RasterInfo.from_json(snakemake.input.raster),
            crops["instances"],
        )
        if snakemake.input.counted:
            table = counts(snakemake.input.counted[0])
            channels = settings["channels"] or crops["channels"]
            settings["normalise"] = channel_percentiles(table, channels=channels)
        with workers_for(snakemake, plan) as client:
            found = embed(
                snakemake.input.crops,
                settings.pop("model"),
                snakemake.output.embedding,
                threads=snakemake.threads if client is None else None,
                client=client,
                overwrite=True,
                progress=True,
                **settings,
            )
        width = found.obsm[settings["obsm"]].shape[1]
        logger.info("%d instances x %d numbers", len(found), width)
        write_manifest(
            snakemake.output.manifest,
            kind="embedding",
            digest=tree_digest(snakemake.output.embedding),
            instances=len(found),
            crops=crops["digest"],
            **snakemake.params.embed,
        )


if __name__ == "__main__":
    main(snakemake)
