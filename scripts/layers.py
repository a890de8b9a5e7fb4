"""Rule layers: the labels of a case's other layers, if they can be measured with its image."""

from harpy_core.workflow.script import running


def main(snakemake):
    """Open the labels of each layer and say which they are."""
    with running(snakemake) as logger:
        from harpy_core.aggregate.layers import opened_layers
        from harpy_core.raster import RasterInfo
        from harpy_core.raster.fingerprints import fingerprint
        from harpy_core.storage.manifest import digest_of, write_manifest

        opened = opened_layers(
            RasterInfo.from_json(snakemake.input.raster), snakemake.params.layers
        )
        found = {
            name: {
                "labels": next(iter(raster.layers)),
                "shape": list(raster.labels.shape),
                "dtype": str(raster.labels.dtype),
                "fingerprint": fingerprint(raster.labels),
            }
            for name, raster in opened.items()
        }
        logger.info("%s", ", ".join(f"{name}: {one['labels']}" for name, one in found.items()))
        write_manifest(
            snakemake.output.layers, kind="layers", digest=digest_of(found), layers=found
        )


if __name__ == "__main__":
    main(snakemake)
