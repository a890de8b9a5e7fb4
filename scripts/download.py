"""Rule download: a registered dataset as a SpatialData store."""

from harpy_core.job import running


def main(snakemake):
    """Fetch or make the dataset and declare it whole."""
    with running(snakemake):
        from harpy_core import datasets
        from harpy_core.manifest import tree_digest, write_manifest

        datasets.fetch(snakemake.wildcards.dataset, snakemake.output.store, progress=True)
        write_manifest(
            snakemake.output.manifest, kind="dataset", digest=tree_digest(snakemake.output.store)
        )


if __name__ == "__main__":
    main(snakemake)
