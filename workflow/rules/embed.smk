# Purpose: numbers that a model gives for each crop.
# Inputs:  the crops, their manifest, and the model's file
# Outputs: results/<case>/embedding.zarr (AnnData, the numbers in obsm) and its manifest


rule embed:
    """Numbers that a model gives for each crop."""
    input:
        raster=ASKED.raster,
        crops=ancient("<results>/{case}/crops.zarr"),
        manifest="<results>/{case}/crops.manifest.json",
        model=ASKED.model_file,
        counted=ASKED.normalising,
    output:
        embedding=directory("<results>/{case}/embedding.zarr"),
        manifest="<results>/{case}/embedding.manifest.json",
    log:
        "<logs>/{case}/embed.log",
    benchmark:
        "<benchmarks>/{case}/embed.tsv"
    conda:
        "../../envs/workflow.yaml"
    threads: NEEDED.threads
    resources:
        mem_mb=NEEDED.embedding_memory_mb,
        runtime=growing(LONG_MINUTES),
        attempt=number_of_try,
        gpu=NEEDED.embedding_gpus,
    params:
        engine=ASKED.model_engine,
        embed=ASKED.embed,
        extract=ASKED.extract,
        own=ASKED.model_code,
        code=provenance.source_digest("harpy_core.embedding.embedding"),
    script:
        "../../scripts/embed.py"
