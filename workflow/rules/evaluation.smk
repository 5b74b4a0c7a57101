# Both forms of all weights on the validation images, which are decoded once for each protocol; whole images with label
# maps are decoded as they come.
SEGMENTS = EXPERIMENT.data.segments
VERB, SCORES = ("evaluate-segmentation", "segmentation") if SEGMENTS else ("evaluate", "accuracy")
CACHED = EXPERIMENT.data.caches
EVALUATION = f"--batch-size {EXPERIMENT.evaluation.batch_size} --workers {EXPERIMENT.evaluation.workers}"

for batch, members in BATCHES:

    rule:
        name:
            rule_name(VERB, batch)
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
                if CACHED
                else []
            ),
        output:
            rows=f"{PARTS}/{SCORES}-{batch}.csv",
            predictions=[
                f"{RESULTS}/predictions/{name}"
                for weights in members
                for name in weights.predictions(EXPERIMENT.evaluation.protocols_of(weights.model))
            ],
        log:
            f"logs/{NAME}/{rule_name(VERB)}-{batch}.log",
        benchmark:
            f"{RESULTS}/benchmarks/{rule_name(VERB)}-{batch}.tsv"
        conda:
            ENVIRONMENT
        threads: EXPERIMENT.execution.evaluate.threads
        resources:
            **asked(EXPERIMENT.execution.evaluate),
        params:
            experiment=NAME,
            weights=evaluation_options(EXPERIMENT, members),
            verb=VERB,
            options="" if SEGMENTS else EVALUATION,
            cache=f"--cache-folder {DATA}/cache" if CACHED else "",
            predictions=lambda wildcards: f"{RESULTS}/predictions",
            runs=RUNS,
            undecodable=EXPERIMENT.data.undecodable,
        shell:
            "python -m repvgg_companion {params.verb} --experiment {params.experiment} {params.weights} "
            "--val-manifest {input.manifest} {params.cache} {params.options} "
            "--output {output.rows} --predictions {params.predictions} "
            "--undecodable {params.undecodable} --runs {params.runs} --log {log}"
