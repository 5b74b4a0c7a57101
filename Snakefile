# The door: `snakemake --cores all` makes everything of one experiment, the demo unless --configfile names another.
include: "workflow/Snakefile"


rule all:
    default_target: True
    input:
        TARGETS,
