"""Rule figure_crops: a page of crops, with their ids and channels."""

from harpy_core.workflow.script import running


def main(snakemake):
    """Read some crops and draw them."""
    with running(snakemake):
        from harpy_core.extract.crops import open_crops
        from harpy_core.figures import gallery
        from harpy_core.storage.manifest import read_manifest
        from harpy_core.workflow.asked import ranges

        # Crops of another type have other values than the image.
        as_stored = read_manifest(snakemake.input.manifest)["dtype"] is None
        counted = snakemake.input.counted if as_stored else []
        shown = ranges(counted, (1, 99.5), inside=True)
        gallery(open_crops(snakemake.input.crops), snakemake.output.figure, ranges=shown)


if __name__ == "__main__":
    main(snakemake)
