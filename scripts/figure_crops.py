"""Rule figure_crops: a page of crops, with their ids and channels."""

from harpy_core.workflow.script import running


def main(snakemake):
    """Read some crops and draw them."""
    with running(snakemake):
        from harpy_core.extract.crops import open_crops
        from harpy_core.figures import gallery

        gallery(open_crops(snakemake.input.crops), snakemake.output.figure)


if __name__ == "__main__":
    main(snakemake)
