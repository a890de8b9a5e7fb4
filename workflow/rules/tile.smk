# Purpose: describe a case's image and labels; repeat them to the target size if one is given.
# Inputs:  the user's files, or data/<dataset>.manifest.json
# Outputs: results/<case>/source.json, and layers.json of other labels; results/<case>/tiled.zarr, its
#          manifest and tiled.json


rule source:
    """The description of a case's image and labels, without reading them."""
    input:
        files=ASKED.source_files,
    output:
        raster="<results>/{case}/source.json",
    log:
        "<logs>/{case}/source.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(SMALL_MINUTES),
    params:
        source=ASKED.source,
        files=ASKED.source_stamp,
        code=provenance.source_digest("harpy_core.raster.opening"),
    script:
        "../../scripts/source.py"


rule layers:
    """The labels of a case's other layers, before anything is measured, without reading them."""
    input:
        raster="<results>/{case}/source.json",
    output:
        layers="<results>/{case}/layers.json",
    log:
        "<logs>/{case}/layers.log",
    # What is wrong with them is told first.
    priority: 2
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(SMALL_MINUTES),
    params:
        layers=ASKED.opened_layers,
        stamps=ASKED.layer_stamps,
        code=provenance.source_digest("harpy_core.aggregate.layers"),
    script:
        "../../scripts/layers.py"


rule tile:
    """The source and its layers repeated along c, y and x, every repeat's labels unique."""
    input:
        raster="<results>/{case}/source.json",
        layers=ASKED.layers_file,
    output:
        store=directory("<results>/{case}/tiled.zarr"),
        manifest="<results>/{case}/tiled.manifest.json",
        raster="<results>/{case}/tiled.json",
    log:
        "<logs>/{case}/tile.log",
    benchmark:
        "<benchmarks>/{case}/tile.tsv"
    conda:
        "../../envs/workflow.yaml"
    threads: 8
    resources:
        mem_mb=NEEDED.tile_memory_mb,
        runtime=NEEDED.tile_minutes,
        attempt=number_of_try,
    params:
        tile=ASKED.tile,
        layers=ASKED.opened_layers,
        code=provenance.source_digest("harpy_core.tiling.tile"),
    script:
        "../../scripts/tile.py"
