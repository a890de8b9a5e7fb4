"""Rule embed: numbers that a model gives for each crop."""

from harpy_core.workflow.script import running


def main(snakemake):
    """Run the model over the crops; the work of an earlier, killed job is kept."""
    with running(snakemake) as logger:
        from harpy_core.embedding.embedding import embed
        from harpy_core.storage.manifest import read_manifest, tree_digest, write_manifest

        settings = dict(snakemake.params.embed)
        found = embed(
            snakemake.input.crops,
            settings.pop("model"),
            snakemake.output.embedding,
            threads=snakemake.threads,
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
            crops=read_manifest(snakemake.input.manifest)["digest"],
            **snakemake.params.embed,
        )


if __name__ == "__main__":
    main(snakemake)
