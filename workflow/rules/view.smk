# Purpose: what a person opens: a page of each image with linked views, and an index of everything.
# Inputs:  the descriptions, tables and crops of the images; all that a run makes
# Outputs: results/<case>/view.html; results/index.html and ro-crate-metadata.json; napari's windows,
#          where it is installed, or pages with Vitessce, where its folder is named


rule page:
    """Image, segmentation, scatter, heat map and crops of an image's fullest field, linked."""
    input:
        raster=ASKED.raster,
        table=ancient("<results>/{case}/table.zarr"),
        manifest="<results>/{case}/table.manifest.json",
        crops=ASKED.crops_of_page,
    output:
        page="<results>/{case}/view.html",
    log:
        "<logs>/{case}/page.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(SMALL_MINUTES),
    params:
        window=ASKED.window,
        code=provenance.source_digest("harpy_core.viewing.pages"),
    script:
        "../../scripts/page.py"


rule index:
    """The page that leads to everything, and the RO-Crate that says how it was made."""
    input:
        stores=ASKED.manifests(),
        pages=ASKED.pages(),
        report="<results>/report.zip",
    output:
        index="<results>/index.html",
        crate="<results>/ro-crate-metadata.json",
    log:
        "<logs>/index.log",
    localrule: True
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    params:
        cases=ASKED.folders(),
        config=CONFIG.model_dump(),
        code=provenance.source_digest(
            "harpy_core.viewing.indexes", "harpy_core.workflow.crates"
        ),
    script:
        "../../scripts/index.py"


rule view:
    """Open every image in napari, or serve it with Vitessce, where one of them is there."""
    input:
        rasters=[ASKED.raster_of(name) for name in ASKED.measured()],
        tables=[f"<results>/{name}/table.manifest.json" for name in ASKED.measured()],
        index="<results>/index.html",
    log:
        "<logs>/view.log",
    localrule: True
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    params:
        names=ASKED.measured(),
    script:
        "../../scripts/view.py"
