# Train files to deploy files, each with its certificate. A process handles several weights, since importing torch costs
# more than converting a small network.
CONVERTED = [(batch, [one for one in members if one.forms == ("train", "deploy")]) for batch, members in BATCHES]
CONVERTED = [(batch, members) for batch, members in CONVERTED if members]

for batch, members in CONVERTED:

    rule:
        name:
            rule_name("reparameterize", batch)
        input:
            weights=[weights.file("train") for weights in members],
            manifest=f"{DATA}/val.parquet",
        output:
            deploy=[weights.file("deploy") for weights in members],
            rows=f"{PARTS}/reparameterization-{batch}.csv",
        log:
            f"logs/{NAME}/reparameterize-{batch}.log",
        benchmark:
            f"{RESULTS}/benchmarks/reparameterize-{batch}.tsv"
        conda:
            ENVIRONMENT
        threads: EXPERIMENT.execution.reparameterize.threads
        resources:
            **asked(EXPERIMENT.execution.reparameterize),
        params:
            experiment=NAME,
            protocol=members[0].protocol,
            runs=RUNS,
            images=EXPERIMENT.reparameterization_inputs,
        shell:
            "python -m repvgg_companion reparameterize --experiment {params.experiment} --weights {input.weights} "
            "--val-manifest {input.manifest} --protocol {params.protocol} --images {params.images} "
            "--output {output.rows} --runs {params.runs} --log {log}"
