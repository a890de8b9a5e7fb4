# Purpose: one centred crop of every instance, all channels, in one pass over the image.
# Inputs:  the raster's description (the store it names is read) and the instances
# Outputs: results/<case>/crops.zarr and its manifest


rule extract:
    """One centred crop of every instance."""
    input:
        raster=ASKED.raster,
        instances=ancient("<results>/{case}/instances.zarr"),
        manifest="<results>/{case}/instances.manifest.json",
        index=ASKED.index_file,
        read=ancient(ASKED.read_before),
    output:
        crops=directory("<results>/{case}/crops.zarr"),
        manifest="<results>/{case}/crops.manifest.json",
    log:
        "<logs>/{case}/extract.log",
    benchmark:
        "<benchmarks>/{case}/extract.tsv"
    conda:
        "../../envs/workflow.yaml"
    threads: NEEDED.threads
    resources:
        mem_mb=NEEDED.memory_mb("extract"),
        runtime=NEEDED.minutes("extract"),
        attempt=number_of_try,
        gpu=NEEDED.gpus,
    params:
        engine=ASKED.engine,
        extract=ASKED.extract,
        code=provenance.source_digest("harpy_core.extract.extraction"),
    script:
        "../../scripts/extract.py"
