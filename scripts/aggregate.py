"""Rule aggregate: statistics of every channel in every instance."""

from harpy_core.job import running, workers


def main(snakemake):
    """Read the image once and write the table."""
    with running(snakemake) as logger:
        from harpy_core.aggregate import aggregate_stats, write_table
        from harpy_core.manifest import tree_digest, write_manifest
        from harpy_core.raster import RasterInfo, open_described

        info = RasterInfo.from_json(snakemake.input.raster)
        raster = open_described(info)
        stats = snakemake.params.stats
        with workers(snakemake, "aggregate", info, stats=stats) as client:
            table = aggregate_stats(
                raster.image,
                raster.labels,
                stats=stats,
                channels=raster.channels,
                client=client,
                progress=True,
            )
        write_table(table, snakemake.output.table, region=info.labels or "labels")
        logger.info("%d instances x %d channels", *table.shape)
        write_manifest(
            snakemake.output.manifest,
            kind="table",
            digest=tree_digest(snakemake.output.table),
            instances=table.n_obs,
            channels=list(table.var_names),
            stats=stats,
        )


if __name__ == "__main__":
    main(snakemake)
