# One HTML page that shows everything of the experiment and needs no network.
rule report:
    input:
        tables=TABLES,
        figures=[f"{FIGURE_FOLDER}/{name}.{kind}" for name in FIGURE_NAMES for kind in ("svg", "md", "csv")],
        panels=f"{FIGURE_FOLDER}/panels",
        claims=f"{RESULTS}/claims.csv",
        provenance=f"{RESULTS}/provenance.json",
        modules=modules("results"),
    output:
        report(
            f"{RESULTS}/report.html",
            caption="../report/page.rst",
            category="1 Report",
            labels={"page": "claims, tables and figures on one page"},
        ),
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


# A model card and its facts beside each set of weights. Another experiment with the same weights writes them again.
CARDS = [f"{weights.folder}/{name}" for weights in WEIGHTS for name in ("README.md", "config.json")]

if CARDS:

    rule cards:
        input:
            results=[COLLECTED[table] for table in (SCORES, "reparameterization") if table in COLLECTED],
            weights=[weights.file(form) for weights in WEIGHTS for form in weights.forms],
            manifest=f"{DATA}/val.parquet",
            modules=modules("results"),
        output:
            CARDS,
        log:
            f"logs/{NAME}/cards.log",
        conda:
            ENVIRONMENT
        params:
            folders=" ".join(weights.folder for weights in WEIGHTS),
            results=lambda wildcards: RESULTS,
            # The content of the experiment file: a changed key writes the cards again.
            configuration=lambda wildcards: plain(EXPERIMENT),
        shell:
            "python -m repvgg_companion cards --weights {params.folders} --results {params.results} "
            f"--val-manifest {{input.manifest}} --configuration {RESOLVED} --log {{log}}"
