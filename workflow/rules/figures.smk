# The paper's figures beside ours, from the collected tables alone: each with its points and its caption.
FIGURE_NAMES = ["figure1", "figure3", "table1", "branches", "proxies"]
FIGURE_NAMES += ["roofline"] * bool(SPEEDS) + ["training"] * bool(TRAINED)
FIGURE_KINDS = ["pdf", "svg", "png", "csv", "md", "tex"]
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
                    category="4 Figures",
                    labels={"figure": name},
                )
                if kind == "svg"
                else f"{FIGURE_FOLDER}/{name}.{kind}"
            )
            for name in FIGURE_NAMES
            for kind in FIGURE_KINDS
        },
        references=f"{FIGURE_FOLDER}/references.bib",
        # One file for each panel of Figure 1; their number depends on what was measured.
        panels=directory(f"{FIGURE_FOLDER}/panels"),
    log:
        f"logs/{NAME}/figures.log",
    conda:
        ENVIRONMENT
    params:
        experiment=NAME,
        results=lambda wildcards: RESULTS,
        paper=lambda wildcards: PAPER,
        folder=lambda wildcards: FIGURE_FOLDER,
        names=" ".join(FIGURE_NAMES),
        histories=" ".join(weights.history for weights in TRAINED.values()),
    shell:
        "python -m repvgg_companion figures --experiment {params.experiment} --results {params.results} "
        "--paper {params.paper:q} --histories {params.histories} --only {params.names} --output {params.folder} "
        "--log {log}"
