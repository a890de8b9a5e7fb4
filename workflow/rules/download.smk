# Purpose: fetch or make a registered dataset.
# Inputs:  none; a registered name in a case's source.uri
# Outputs: data/<dataset>.zarr and its manifest


rule download:
    """A registered dataset as a SpatialData store."""
    output:
        store=directory("data/{dataset}.zarr"),
        manifest="data/{dataset}.manifest.json",
    log:
        "<logs>/data/{dataset}.log",
    benchmark:
        "<benchmarks>/data/{dataset}.tsv"
    conda:
        "../../envs/workflow.yaml"
    threads: 4
    resources:
        mem_mb=NEEDED.dataset_memory_mb,
        runtime=NEEDED.download_minutes,
        attempt=number_of_try,
    params:
        code=ASKED.dataset_code,
    script:
        "../../scripts/download.py"
