"""Rule benchmark_cell: one measured run of a stage in a fresh process."""

from harpy_core.workflow.script import running


def main(snakemake):
    """Start the run, sample its processes and write its row."""
    with running(snakemake):
        from harpy_core.benchmark.sweep import RunSpec, measure

        cell = snakemake.wildcards
        spec = RunSpec(
            case=cell.case,
            stage=cell.stage,
            engine=cell.engine,
            workers=int(cell.workers),
            repeat=int(cell.repeat),
            raster_json=snakemake.input.raster,
            instances=snakemake.input.instances if cell.stage == "extract" else None,
            **snakemake.params.sweep,
        )
        measure(spec, snakemake.output.row, log=f"{snakemake.log[0]}.run")


if __name__ == "__main__":
    main(snakemake)
