# The entry point: `snakemake --cores all` runs one experiment, the demo unless --configfile names another.
include: "workflow/Snakefile"


rule all:
    default_target: True
    input:
        TARGETS,
