"""Rule tile: the source repeated along c, y and x."""

import sys
from dataclasses import replace

from harpy_core.config.models import TILED_LABELS
from harpy_core.workflow.script import running


def main(snakemake):
    """Write the tiled store, declare it whole and describe it."""
    with running(snakemake) as logger:
        from harpy_core.aggregate.layers import opened_layers
        from harpy_core.raster import RasterInfo, describe, open_described
        from harpy_core.storage.manifest import digest_of, read_manifest, write_manifest
        from harpy_core.tiling.tile import tile_raster

        source = RasterInfo.from_json(snakemake.input.raster)
        target, output = snakemake.params.tile, snakemake.output
        raster = open_described(source)
        opened = opened_layers(source, snakemake.params.layers)
        layers = {name: each.labels for name, each in opened.items()}
        tiled = tile_raster(
            replace(raster, layers={**raster.layers, **layers}),
            output.store,
            (target["c"], target["y"], target["x"]),
            chunks=tuple(target["chunks"]),
            method=target["method"],
            codec=target["codec"],
            shard=target["shard"] and tuple(target["shard"]),
            progress=True,
            threads=snakemake.threads,
        )
        logger.info("%s", tiled)
        # On stderr too, in case links were asked for but the disk fills with copies.
        print(f"tile {snakemake.wildcards.case}: {tiled}", file=sys.stderr, flush=True)
        # A digest of its origin and code: reading a terapixel again for one takes too long.
        others = [read_manifest(file)["digest"] for file in snakemake.input.layers]
        digest = digest_of([source.fingerprint, others, target, snakemake.params.code])
        write_manifest(output.manifest, kind="tiled", digest=digest, source=source.fingerprint)
        info = describe(output.store, labels=TILED_LABELS, missing_chunks=source.missing)
        logger.info("image %s, chunks %s", info.image_shape, info.image_chunks)
        info.to_json(output.raster)


if __name__ == "__main__":
    main(snakemake)
