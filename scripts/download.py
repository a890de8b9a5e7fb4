"""Rule download: a registered dataset as a SpatialData store."""

from harpy_core.job import running


def main(snakemake):
    """Fetch or make the dataset and declare it whole."""
    with running(snakemake):
        from harpy_core import datasets
        from harpy_core.manifest import tree_digest, write_manifest

        name, store = snakemake.wildcards.dataset, snakemake.output.store
        datasets.fetch(name, store, progress=True)
        # A published one was checked against its digest while it came in.
        digest = datasets.REGISTRY[name].sha256 or tree_digest(store)
        write_manifest(snakemake.output.manifest, kind="dataset", digest=digest)


if __name__ == "__main__":
    main(snakemake)
