# Purpose: measure both stages over a range of workers, each run in fresh processes.
# Inputs:  the raster's description
# Outputs: results/<case>/benchmark/sweep.csv, one row a run, and samples.csv.gz, their curves;
#          results/<case>/benchmark/runs/ keeps single runs, so that a sweep goes on where it stopped


rule sweep:
    """Every measured run of a case, one after the other; it takes every core."""
    input:
        raster=ASKED.raster,
    output:
        table=report(
            "<results>/{case}/benchmark/sweep.csv",
            caption="../report/sweep.rst",
            category="{case}",
            subcategory="Benchmark",
            labels={"figure": "every measured run"},
        ),
        samples="<results>/{case}/benchmark/samples.csv.gz",
    log:
        "<logs>/{case}/sweep.log",
    # A second try would measure another machine, or a warmer one; single runs that fail are rows.
    retries: 0
    conda:
        "../../envs/workflow.yaml"
    threads: measuring_threads
    resources:
        mem_mb=NEEDED.measured_memory_mb,
        runtime=NEEDED.measured_minutes,
        # Nothing may run beside a measurement.
        slurm_extra="--exclusive",
        gpu=NEEDED.measured_gpus,
    params:
        sweep=sweep_of,
        code=provenance.source_digest(
            "harpy_core.benchmark.process",
            "harpy_core.benchmark.peer",
            "harpy_core.benchmark.sweep",
        ),
    script:
        "../../scripts/sweep.py"
