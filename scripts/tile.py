"""Rule tile: the source repeated along c, y and x."""

from harpy_core.job import running


def main(snakemake):
    """Write the tiled store, declare it whole and describe it."""
    with running(snakemake) as logger:
        from harpy_core.manifest import digest_of, write_manifest
        from harpy_core.raster import RasterInfo, describe, open_described
        from harpy_core.raster.tile import tile_raster

        source = RasterInfo.from_json(snakemake.input.raster)
        target, output = snakemake.params.tile, snakemake.output
        tile_raster(
            open_described(source),
            output.store,
            (target["c"], target["y"], target["x"]),
            chunks=tuple(target["chunks"]),
            method=target["method"],
            progress=True,
            threads=snakemake.threads,
        )
        # What it was made from and how: reading a terapixel again for a digest takes too long.
        digest = digest_of([source.fingerprint, target, snakemake.params.code])
        write_manifest(output.manifest, kind="tiled", digest=digest, source=source.fingerprint)
        info = describe(output.store)
        logger.info("image %s, chunks %s", info.image_shape, info.image_chunks)
        info.to_json(output.raster)


if __name__ == "__main__":
    main(snakemake)
