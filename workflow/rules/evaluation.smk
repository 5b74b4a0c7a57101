# Both forms of all weights on the validation images, which are decoded once for each protocol.
for batch, members in BATCHES:

    rule:
        name:
            rule_name("evaluate", batch)
        input:
            weights=[weights.file(form) for weights in members for form in weights.forms],
            manifest=f"{DATA}/val.parquet",
            dataset=f"{DATA}/dataset.json",
            caches=(
                sorted(
                    {
                        f"{DATA}/cache/{protocol}.npy"
                        for weights in members
                        for protocol in EXPERIMENT.evaluation.protocols_of(weights.model)
                    }
                )
                if EXPERIMENT.data.cache
                else []
            ),
        output:
            rows=f"{PARTS}/accuracy-{batch}.csv",
            predictions=[
                f"{RESULTS}/predictions/{name}"
                for weights in members
                for name in weights.predictions(EXPERIMENT.evaluation.protocols_of(weights.model))
            ],
        log:
            f"logs/{NAME}/evaluate-{batch}.log",
        conda:
            ENVIRONMENT
        threads: EXPERIMENT.execution.evaluate.threads
        resources:
            **asked(EXPERIMENT.execution.evaluate),
        params:
            experiment=NAME,
            weights=evaluation_options(EXPERIMENT, members),
            cache=f"--cache-folder {DATA}/cache" if EXPERIMENT.data.cache else "",
            predictions=lambda wildcards: f"{RESULTS}/predictions",
            runs=RUNS,
            undecodable=EXPERIMENT.data.undecodable,
            batch_size=EXPERIMENT.evaluation.batch_size,
            workers=EXPERIMENT.evaluation.workers,
        shell:
            "python -m repvgg_companion evaluate --experiment {params.experiment} {params.weights} "
            "--val-manifest {input.manifest} {params.cache} --batch-size {params.batch_size} "
            "--workers {params.workers} --output {output.rows} --predictions {params.predictions} "
            "--undecodable {params.undecodable} --runs {params.runs} --log {log}"
