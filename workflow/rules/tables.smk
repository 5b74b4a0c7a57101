# Parts of single jobs to the result tables of the contract, and these to the paper's tables beside ours.
PART_FILES = {
    "reparameterization": [f"{PARTS}/reparameterization-{batch}.csv" for batch, _ in CONVERTED],
    SCORES: [f"{PARTS}/{SCORES}-{batch}.csv" for batch, _ in BATCHES],
    "complexity": [f"{PARTS}/complexity-{number}.csv" for number in range(len(COMPLEXITY))],
    "speed": [f"{PARTS}/{part}.csv" for part in SPEEDS],
    "kernel_size": [f"{PARTS}/kernel_size.csv"] if EXPERIMENT.kernel_size else [],
    "memory": [f"{PARTS}/memory.csv"] if EXPERIMENT.memory else [],
}
COLLECTED = {table: f"{RESULTS}/{table}.csv" for table, parts in PART_FILES.items() if parts}
FACTS = sorted(str(path) for path in Path(PAPER).glob("*.csv"))
TABLE_NAMES = [f"table{number}" for number in range(1, 9)]
TABLE_KINDS = ["csv", "md", "tex"]
TABLES = [f"{RESULTS}/tables/{name}.{kind}" for name in TABLE_NAMES for kind in TABLE_KINDS]
TABLES += [f"{RESULTS}/tables/numbers.tex"]


rule collect:
    input:
        parts=[part for table in COLLECTED for part in PART_FILES[table]],
        modules=modules("results"),
        contract=str(HERE / "src" / "repvgg_companion" / "contract.py"),
    output:
        list(COLLECTED.values()),
    log:
        f"logs/{NAME}/collect.log",
    conda:
        ENVIRONMENT
    params:
        tables=" ".join(
            f"--table {table} {output} {' '.join(PART_FILES[table])}" for table, output in COLLECTED.items()
        ),
    shell:
        "python -m repvgg_companion collect {params.tables} --log {log}"


rule tables:
    input:
        results=list(COLLECTED.values()),
        facts=FACTS,
        modules=modules_without_figures("paper"),
    output:
        [
            (
                report(path, caption="../report/tables.rst", category="3 Tables", labels={"table": Path(path).stem})
                if path.endswith(".md")
                else path
            )
            for path in TABLES
        ],
    log:
        f"logs/{NAME}/tables.log",
    conda:
        ENVIRONMENT
    params:
        experiment=NAME,
        results=lambda wildcards: RESULTS,
        paper=lambda wildcards: PAPER,
        folder=lambda wildcards: f"{RESULTS}/tables",
    shell:
        "python -m repvgg_companion tables --experiment {params.experiment} --results {params.results} "
        "--paper {params.paper:q} --output {params.folder} --log {log}"
