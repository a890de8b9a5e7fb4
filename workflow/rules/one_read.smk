# Purpose: read the image once for the table and the crops of a case that asks for it.
# Inputs:  the raster's description (the store it names is read) and the instances
# Outputs: results/<case>/one_read.json; what tiles contribute to both is committed beside them


rule one_read:
    """What the table and the crops need of the image; each then goes on from there."""
    input:
        raster=ASKED.raster,
        instances=ancient("<results>/{case}/instances.zarr"),
        manifest="<results>/{case}/instances.manifest.json",
        layers=ASKED.layers_file,
        index=ASKED.index_file,
    output:
        read="<results>/{case}/one_read.json",
    log:
        "<logs>/{case}/one_read.log",
    benchmark:
        "<benchmarks>/{case}/one_read.tsv"
    priority: 1
    conda:
        "../../envs/workflow.yaml"
    threads: NEEDED.threads
    resources:
        mem_mb=NEEDED.memory_mb("one_read"),
        runtime=NEEDED.minutes("one_read"),
        attempt=number_of_try,
        gpu=NEEDED.gpus,
    params:
        engine=ASKED.engine,
        aggregate=ASKED.aggregate,
        extract=ASKED.extract,
    script:
        "../../scripts/one_read.py"
