# What `snakemake` runs from a checkout; another workflow imports workflow/Snakefile instead.


include: "workflow/Snakefile"


rule default:
    """What workflow/Snakefile calls all."""
    default_target: True
    input:
        rules.all.input,
