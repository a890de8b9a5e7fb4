# Purpose: measure both stages over a range of workers, in fresh processes.
# Inputs:  the raster's description and the instances
# Outputs: results/<case>/benchmark/<stage>/<engine>-<workers>-<repeat>.json, one a run;
#          results/<case>/benchmark/sweep.csv, one row a run


rule benchmark_cell:
    """One measured run of a stage; it takes every core, so that nothing runs beside it."""
    input:
        raster=ASKED.raster,
        instances=ancient("results/{case}/instances.zarr"),
        manifest="results/{case}/instances.manifest.json",
    output:
        row="results/{case}/benchmark/{stage}/{engine}-{workers}-{repeat}.json",
    log:
        "logs/{case}/benchmark/{stage}-{engine}-{workers}-{repeat}.log",
    wildcard_constraints:
        engine=any_of(MEASURED),
        workers=r"\d+",
        repeat=r"\d+",
    conda:
        "../../envs/workflow.yaml"
    threads: measuring_threads
    resources:
        mem_mb=NEEDED.measured_memory_mb,
        gpu=NEEDED.measured_gpus,
    params:
        sweep=ASKED.measured,
        code=provenance.source_digest("harpy_core.benchmark.process"),
    script:
        "../../scripts/benchmark_cell.py"


rule sweep:
    """The measured runs of a case as one table."""
    input:
        rows=sweep_rows,
    output:
        table=report(
            "results/{case}/benchmark/sweep.csv",
            caption="../report/sweep.rst",
            category="{case}",
            subcategory="Benchmark",
            labels={"figure": "every measured run", "stage": "all"},
        ),
    log:
        "logs/{case}/sweep.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        code=provenance.source_digest("harpy_core.benchmark.sweep"),
    script:
        "../../scripts/sweep.py"
