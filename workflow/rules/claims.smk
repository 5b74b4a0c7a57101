# The verdicts on the paper's claims, and what all results rest on.
rule claims:
    input:
        results=list(COLLECTED.values()),
        predictions=[
            f"{RESULTS}/predictions/{name}"
            for weights in WEIGHTS
            for name in weights.predictions(EXPERIMENT.evaluation.protocols_of(weights.model))
        ],
        facts=FACTS,
        modules=modules_without_figures("paper"),
    output:
        table=f"{RESULTS}/claims.csv",
        text=report(f"{RESULTS}/claims.md", caption="../report/claims.rst", category="2 Claims"),
    log:
        f"logs/{NAME}/claims.log",
    conda:
        ENVIRONMENT
    params:
        experiment=NAME,
        results=lambda wildcards: RESULTS,
        paper=lambda wildcards: PAPER,
    shell:
        "python -m repvgg_companion claims --experiment {params.experiment} --results {params.results} "
        "--paper {params.paper:q} --output {output.table} --markdown {output.text} --log {log}"


rule provenance:
    input:
        results=list(COLLECTED.values()),
        dataset=f"{DATA}/dataset.json",
        modules=modules("results"),
    output:
        f"{RESULTS}/provenance.json",
    log:
        f"logs/{NAME}/provenance.log",
    conda:
        ENVIRONMENT
    params:
        experiment=NAME,
        results=lambda wildcards: RESULTS,
        # The content of the experiment file: a changed key writes the provenance again.
        configuration=lambda wildcards: plain(EXPERIMENT),
    shell:
        "python -m repvgg_companion provenance --experiment {params.experiment} --results {params.results} "
        f"--dataset {{input.dataset}} --configuration {RESOLVED} --output {{output}} --log {{log}}"
