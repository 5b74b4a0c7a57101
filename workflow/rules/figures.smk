# The paper's figures beside ours, from the collected tables alone; the CSV file holds the points of each.
FIGURE_NAMES = ["figure1", "figure3", "table1", "branches", "proxies", "roofline", "training"]
FIGURE_KINDS = ["pdf", "svg", "png", "csv"]
FIGURES = [f"{FIGURE_FOLDER}/{name}.{kind}" for name in FIGURE_NAMES for kind in FIGURE_KINDS]


rule figures:
    input:
        results=list(COLLECTED.values()),
        histories=[weights.history for weights in TRAINED.values()],
        facts=FACTS,
        modules=modules("paper"),
    output:
        **{
            f"{name}_{kind}": (
                report(
                    f"{FIGURE_FOLDER}/{name}.{kind}",
                    caption=f"../report/{name}.rst",
                    category="Figures",
                    labels={"figure": name},
                )
                if kind == "svg"
                else f"{FIGURE_FOLDER}/{name}.{kind}"
            )
            for name in FIGURE_NAMES
            for kind in FIGURE_KINDS
        },
    log:
        f"logs/{NAME}/figures.log",
    conda:
        ENVIRONMENT
    params:
        experiment=NAME,
        results=lambda wildcards: RESULTS,
        paper=lambda wildcards: PAPER,
        folder=lambda wildcards: FIGURE_FOLDER,
        histories=" ".join(weights.history for weights in TRAINED.values()),
    shell:
        "python -m repvgg_companion figures --experiment {params.experiment} --results {params.results} "
        "--paper {params.paper:q} --histories {params.histories} --output {params.folder} --log {log}"
