# One HTML page that shows everything of the experiment and needs no network.
rule report:
    input:
        tables=TABLES,
        figures=[f"{FIGURE_FOLDER}/{name}.svg" for name in FIGURE_NAMES],
        claims=f"{RESULTS}/claims.csv",
        provenance=f"{RESULTS}/provenance.json",
        modules=modules("results"),
    output:
        f"{RESULTS}/report.html",
    log:
        f"logs/{NAME}/report.log",
    conda:
        ENVIRONMENT
    params:
        experiment=NAME,
        results=lambda wildcards: RESULTS,
        figures=lambda wildcards: FIGURE_FOLDER,
    shell:
        "python -m repvgg_companion report --experiment {params.experiment} --results {params.results} "
        "--figures {params.figures} --output {output} --log {log}"
