# The door: `snakemake --cores all` makes everything of one experiment, the demo unless --configfile names another.
include: "workflow/Snakefile"


rule all:
    default_target: True
    input:
        list(COLLECTED.values()),
        TABLES,
        FIGURES,
        f"{RESULTS}/claims.csv",
        f"{RESULTS}/claims.md",
        f"{RESULTS}/provenance.json",
        f"{RESULTS}/report.html",
