"""Rule join_crops: the manifest of the crops of several fields of view."""

from harpy_core.workflow.script import running


def main(snakemake):
    """Check that the fields' crops belong together and list them."""
    with running(snakemake) as logger:
        from harpy_core.aggregate.fields import list_crops

        fields = dict(zip(snakemake.params.fields, snakemake.input.manifests, strict=True))
        crops = list_crops(fields, snakemake.output.manifest)
        logger.info("%d crops in %d fields", crops, len(fields))


if __name__ == "__main__":
    main(snakemake)
