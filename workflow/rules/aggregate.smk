# Purpose: statistics of every channel in every instance, in one pass over the image.
# Inputs:  the raster's description (the store it names is read) and the instances
# Outputs: results/<case>/table.zarr (AnnData) and its manifest; into_store.json, which says what
#          was put into the user's store


rule aggregate:
    """Statistics of every channel in every instance, as an AnnData table."""
    input:
        raster=ASKED.raster,
        instances=ancient("<results>/{case}/instances.zarr"),
        found="<results>/{case}/instances.manifest.json",
        layers=ASKED.layers_file,
        read=ancient(ASKED.read_before),
    output:
        table=directory("<results>/{case}/table.zarr"),
        manifest="<results>/{case}/table.manifest.json",
    log:
        "<logs>/{case}/aggregate.log",
    benchmark:
        "<benchmarks>/{case}/aggregate.tsv"
    # The table comes before the pictures.
    priority: 1
    conda:
        "../../envs/workflow.yaml"
    threads: NEEDED.threads
    resources:
        mem_mb=NEEDED.memory_mb("aggregate"),
        runtime=NEEDED.minutes("aggregate"),
        attempt=number_of_try,
        gpu=NEEDED.gpus,
    params:
        engine=ASKED.engine,
        aggregate=ASKED.aggregate,
        layers=ASKED.layer_stamps,
        own=ASKED.own_code,
        code=provenance.source_digest("harpy_core.aggregate.store"),
    script:
        "../../scripts/aggregate.py"


rule into_store:
    """The tables of all layers, and shapes, in the SpatialData store that they describe."""
    input:
        raster="<results>/{case}/source.json",
        instances=ancient("<results>/{case}/instances.zarr"),
        table=ancient("<results>/{case}/table.zarr"),
        manifest="<results>/{case}/table.manifest.json",
        layers=ASKED.layers_file,
    output:
        manifest="<results>/{case}/into_store.json",
    log:
        "<logs>/{case}/into_store.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(SMALL_MINUTES),
    params:
        table=ASKED.table,
        elements=ASKED.table_elements,
        code=provenance.source_digest("harpy_core.aggregate.into_store"),
    script:
        "../../scripts/into_store.py"
