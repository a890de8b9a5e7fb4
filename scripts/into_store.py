"""Rule into_store: the table and shapes as elements of the user's SpatialData store."""

from harpy_core.workflow.script import running


def main(snakemake):
    """Put the elements into the store and say which they are."""
    with running(snakemake) as logger:
        from harpy_core.aggregate.into_store import put_shapes, put_table
        from harpy_core.instances.finding import Instances
        from harpy_core.raster import RasterInfo, open_described
        from harpy_core.storage.manifest import read_manifest, write_manifest

        info = RasterInfo.from_json(snakemake.input.raster)
        section, table = snakemake.params.table, snakemake.input.table
        labels, overwrite = next(iter(open_described(info).layers)), section["overwrite"]
        put_table(table, info.uri, labels, section["name"], overwrite=overwrite)
        elements = [f"tables/{section['name']}"]
        if section["shapes"]:
            instances = Instances.read(snakemake.input.instances)
            for kind in section["shapes"]:
                name = put_shapes(instances, table, info.uri, labels, kind, overwrite=overwrite)
                elements.append(f"shapes/{name}")
        logger.info("%s: %s", info.uri, ", ".join(elements))
        write_manifest(
            snakemake.output.manifest,
            kind="elements",
            digest=read_manifest(snakemake.input.manifest)["digest"],
            store=info.uri,
            elements=elements,
        )


if __name__ == "__main__":
    main(snakemake)
