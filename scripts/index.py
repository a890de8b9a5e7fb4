"""Rule index: the page that leads to everything, and the RO-Crate that says what it is."""

from pathlib import Path

from harpy_core.workflow.script import running


def main(snakemake):
    """List what is there, for people and for machines."""
    with running(snakemake):
        from harpy_core.viewing.indexes import write_index
        from harpy_core.workflow.crates import write_crate

        folder, cases = Path(snakemake.output.index).parent, snakemake.params.cases
        crate = Path(snakemake.output.crate).name
        write_index(folder, cases, made=[Path(snakemake.input.report).name, crate])
        write_crate(folder, cases, snakemake.params.config)


if __name__ == "__main__":
    main(snakemake)
