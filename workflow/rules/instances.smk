# Purpose: find every instance, in one pass over the labels.
# Inputs:  the raster's description (the store it names is read)
# Outputs: results/<case>/instances.zarr and its manifest


rule instances:
    """Id, area, centroid and bounding box of every instance."""
    input:
        raster=ASKED.raster,
    output:
        store=directory("<results>/{case}/instances.zarr"),
        manifest="<results>/{case}/instances.manifest.json",
    log:
        "<logs>/{case}/instances.log",
    benchmark:
        "<benchmarks>/{case}/instances.tsv"
    # The table comes before the pictures.
    priority: 1
    conda:
        "../../envs/workflow.yaml"
    threads: NEEDED.threads
    resources:
        mem_mb=NEEDED.memory_mb("instances"),
        runtime=NEEDED.minutes("instances"),
        attempt=number_of_try,
        gpu=NEEDED.gpus,
    params:
        engine=ASKED.engine,
        code=provenance.source_digest("harpy_core.instances.finding"),
    script:
        "../../scripts/instances.py"
