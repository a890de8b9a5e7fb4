"""Rule figure_benchmark: a sweep's scaling, its engines beside each other, or one run over time."""

from harpy_core.workflow.script import running


def main(snakemake):
    """Read the sweep and draw what the file's name asks for."""
    with running(snakemake):
        from harpy_core import figures

        sweep, out = snakemake.input.sweep, snakemake.output.figure
        stage, name = snakemake.wildcards.stage, snakemake.wildcards.figure
        if name == "timeline":
            figures.timeline(sweep, snakemake.input.samples, stage, out)
        else:
            {"scaling": figures.scaling, "comparison": figures.comparison}[name](sweep, stage, out)


if __name__ == "__main__":
    main(snakemake)
