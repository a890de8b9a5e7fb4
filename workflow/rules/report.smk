# Purpose: the pictures of each case, Snakemake's report of them, and the plan of what will run.
# Inputs:  the stores and the sweeps of the cases
# Outputs: results/<case>/figures/*.png; results/report.zip; the plan is only printed
#
# One label a figure: Snakemake's report makes a switch of a second one that has two values, and its
# page breaks where a figure has but one of them.


rule plan:
    """Tasks, bytes, memory and free disk, case by case, before anything runs (only printed)."""
    log:
        "<logs>/plan.log",
    localrule: True
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    params:
        config=CONFIG.model_dump(),
        file=CONFIG_FILE,
    script:
        "../../scripts/plan.py"


rule check:
    """The contents of every case's source, without running anything else (only printed)."""
    log:
        "<logs>/check.log",
    localrule: True
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    params:
        config=CONFIG.model_dump(),
        file=CONFIG_FILE,
    script:
        "../../scripts/check.py"


rule figure_tissue:
    """The tissue, with the outlines of its instances."""
    input:
        raster=ASKED.raster,
        counted=ASKED.counted,
    output:
        figure=report(
            "<results>/{case}/figures/tissue.png",
            caption="../report/tissue.rst",
            category="{case}",
            subcategory="Tissue",
            labels={"figure": "tissue and segmentation"},
        ),
    log:
        "<logs>/{case}/figure_tissue.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(SMALL_MINUTES),
    params:
        code=provenance.source_digest("harpy_core.figures.composites"),
    script:
        "../../scripts/figure_tissue.py"


rule figure_crops:
    """A page of crops, with their ids and channels."""
    input:
        crops=ancient("<results>/{case}/crops.zarr"),
        manifest="<results>/{case}/crops.manifest.json",
        counted=ASKED.counted,
    output:
        figure=report(
            "<results>/{case}/figures/crops.png",
            caption="../report/crops.rst",
            category="{case}",
            subcategory="Instances",
            labels={"figure": "gallery of crops"},
        ),
    log:
        "<logs>/{case}/figure_crops.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(SMALL_MINUTES),
    params:
        code=provenance.source_digest("harpy_core.figures.galleries"),
    script:
        "../../scripts/figure_crops.py"


rule figure_heatmap:
    """The table as a heat map, instances x channels."""
    input:
        table=ancient("<results>/{case}/table.zarr"),
        manifest="<results>/{case}/table.manifest.json",
    output:
        figure=report(
            "<results>/{case}/figures/heatmap.png",
            caption="../report/heatmap.rst",
            category="{case}",
            subcategory="Instances",
            labels={"figure": "heat map of the table"},
        ),
    log:
        "<logs>/{case}/figure_heatmap.log",
    wildcard_constraints:
        case=any_of([*ASKED.images, *ASKED.fields]),
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(SMALL_MINUTES),
    params:
        code=provenance.source_digest("harpy_core.figures.heatmaps"),
    script:
        "../../scripts/figure_heatmap.py"


rule figure_sweep:
    """Memory, time and CPU of a stage over the number of workers."""
    input:
        sweep="<results>/{case}/benchmark/sweep.csv",
    output:
        figure=report(
            "<results>/{case}/figures/{stage}.png",
            caption="../report/panels.rst",
            category="{case}",
            subcategory="Benchmark",
            labels={"figure": "{stage}: memory, time and CPU over workers"},
        ),
    log:
        "<logs>/{case}/figure_{stage}.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(SMALL_MINUTES),
    params:
        code=provenance.source_digest("harpy_core.figures.sweeps"),
    script:
        "../../scripts/figure_sweep.py"


rule figure_benchmark:
    """A sweep's scaling, its engines beside each other, or one run over time."""
    input:
        sweep="<results>/{case}/benchmark/sweep.csv",
        samples="<results>/{case}/benchmark/samples.csv.gz",
    output:
        figure=report(
            "<results>/{case}/figures/{stage}-{figure}.png",
            caption="../report/benchmark.rst",
            category="{case}",
            subcategory="Benchmark",
            labels={"figure": "{stage}: {figure}"},
        ),
    log:
        "<logs>/{case}/figure_{stage}-{figure}.log",
    wildcard_constraints:
        figure=any_of(SWEEP_FIGURES),
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(SMALL_MINUTES),
    params:
        code=provenance.source_digest(
            "harpy_core.figures.comparisons",
            "harpy_core.figures.speedups",
            "harpy_core.figures.timelines",
        ),
    script:
        "../../scripts/figure_benchmark.py"


rule figure_overview:
    """One page on all sweeps: what was measured, on what, how fast, in how much memory."""
    input:
        sweeps=ASKED.sweeps(),
    output:
        figure=report(
            "<results>/figures/overview.png",
            caption="../report/overview.rst",
            category="At a glance",
            labels={"figure": "what was measured, and what came of it"},
        ),
    log:
        "<logs>/figure_overview.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(SMALL_MINUTES),
    params:
        code=provenance.source_digest("harpy_core.figures.overviews"),
    script:
        "../../scripts/figure_overview.py"


rule figures:
    """Every picture of every case."""
    input:
        ASKED.figures(),
    localrule: True


rule report:
    """Snakemake's report: every picture with its caption, how it was made and how long it took."""
    input:
        ASKED.figures(),
    output:
        report="<results>/report.zip",
    log:
        "<logs>/report.log",
    localrule: True
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        start=own_start(),
        # Its text: its path is another one in every run.
        look=Path(workflow.source_path("../report/report.css")).read_text(),
    script:
        "../../scripts/report.py"
