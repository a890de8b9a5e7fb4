"""Rule join_tables: the tables of several fields of view as one."""

from harpy_core.workflow.script import running


def main(snakemake):
    """Read the tables a block at a time and write the whole."""
    with running(snakemake) as logger:
        from harpy_core.aggregate.fields import join_tables
        from harpy_core.storage.manifest import (
            read_manifest,
            refuse_changed,
            tree_digest,
            write_manifest,
        )

        fields, output = snakemake.params.fields, snakemake.output
        for table, manifest in zip(snakemake.input.tables, snakemake.input.manifests, strict=True):
            refuse_changed(table, manifest)
        instances = join_tables(
            dict(zip(fields, snakemake.input.tables, strict=True)), output.table
        )
        logger.info("%d instances in %d fields", instances, len(fields))
        first = read_manifest(snakemake.input.manifests[0])
        write_manifest(
            output.manifest,
            kind="table",
            digest=tree_digest(output.table),
            instances=instances,
            channels=first["channels"],
            stats=first["stats"],
            fields=fields,
        )


if __name__ == "__main__":
    main(snakemake)
