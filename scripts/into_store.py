"""Rule into_store: tables and shapes as elements of the user's SpatialData store."""

from harpy_core.workflow.script import running


def main(snakemake):
    """Put the elements into the store and say which they are."""
    with running(snakemake) as logger:
        from harpy_core.aggregate.into_store import TablePart, put_shapes, put_tables
        from harpy_core.instances.finding import Instances
        from harpy_core.raster import RasterInfo, open_described
        from harpy_core.storage.manifest import read_manifest, write_manifest

        info = RasterInfo.from_json(snakemake.input.raster)
        section, table = snakemake.params.table, snakemake.input.table
        labels = {"": next(iter(open_described(info).layers))}
        for file in snakemake.input.layers:
            found = read_manifest(file)["layers"]
            labels |= {layer: one["labels"] for layer, one in found.items()}
        parts = [
            TablePart(layer or labels[""], labels[of], element)
            for layer, (element, of) in snakemake.params.elements.items()
        ]
        overwrite = section["overwrite"]
        put_tables(table, info.uri, parts, overwrite=overwrite)
        elements = [f"tables/{part.element}" for part in parts]
        if section["shapes"]:
            instances = Instances.read(snakemake.input.instances)
            for kind in section["shapes"]:
                name = put_shapes(instances, table, info.uri, labels[""], kind, overwrite=overwrite)
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
