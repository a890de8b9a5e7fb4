# Purpose: join the results of the fields of view of a case.
# Inputs:  the tables of the fields and their manifests; the manifests of their crops
# Outputs: results/<case>/table.zarr with a column for the field, and its manifest;
#          results/<case>/crops.manifest.json, which names the fields' stores


rule join_tables:
    """The tables of a case's fields of view as one, which names the field of each instance."""
    input:
        tables=ASKED.of_fields("table.zarr"),
        manifests=ASKED.of_fields("table.manifest.json"),
    output:
        table=directory("<results>/{case}/table.zarr"),
        manifest="<results>/{case}/table.manifest.json",
    log:
        "<logs>/{case}/join_tables.log",
    wildcard_constraints:
        case=any_of(ASKED.fields),
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        mem_mb=NEEDED.joined_memory_mb,
        runtime=growing(SMALL_MINUTES),
    params:
        fields=ASKED.field_names,
        code=provenance.source_digest("harpy_core.aggregate.fields"),
    script:
        "../../scripts/join_tables.py"


rule join_crops:
    """The manifest of the crops of a case's fields of view; they stay where they are."""
    input:
        manifests=ASKED.of_fields("crops.manifest.json"),
    output:
        manifest="<results>/{case}/crops.manifest.json",
    log:
        "<logs>/{case}/join_crops.log",
    wildcard_constraints:
        case=any_of(ASKED.fields),
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(SMALL_MINUTES),
    params:
        fields=ASKED.field_names,
        code=provenance.source_digest("harpy_core.aggregate.fields"),
    script:
        "../../scripts/join_crops.py"
