# What is counted and what is timed. A job that measures time has the machine to itself: it takes all cores of the run.
# It has no `benchmark:` either: Snakemake would then read the job's memory maps every few seconds. A job that was
# stopped continues after its last finished group; the groups are kept until all rows are written.
MEASURING = f"{RESULTS}/measuring-"
COMPLEXITY = complexity_groups(EXPERIMENT)
# All cores of a local run. A cluster has no such number, and neither have --unlock and --report.
MACHINE = workflow.resource_settings.cores or EXPERIMENT.execution.measure.threads


rule count_complexity:
    input:
        modules("complexity"),
        modules("models"),
        # Where the file names no number of classes, it is that of the images.
        dataset=lambda wildcards: [f"{DATA}/dataset.json"] if COMPLEXITY[int(wildcards.number)].of_images else [],
    output:
        f"{PARTS}/complexity-{{number}}.csv",
    log:
        f"logs/{NAME}/count_complexity-{{number}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/count_complexity-{{number}}.tsv"
    wildcard_constraints:
        number=r"\d+",
    conda:
        ENVIRONMENT
    params:
        experiment=NAME,
        group=lambda wildcards: COMPLEXITY[int(wildcards.number)].options,
        dataset=lambda wildcards, input: f"--dataset {input.dataset} " if input.dataset else "",
        runs=RUNS,
    shell:
        "python -m repvgg_companion count-complexity --experiment {params.experiment} {params.group} {params.dataset}"
        "--output {output} --runs {params.runs} --log {log}"


# Classification, and the networks of Table 8, which have another input: a run of their own each.
SPEEDS = {"speed": "speed", "speed-segmentation": "segmentation_speed"}
SPEEDS = {part: key for part, key in SPEEDS.items() if getattr(EXPERIMENT, key)}

if SPEEDS:

    rule measure_speed:
        output:
            f"{PARTS}/{{part}}.csv",
        log:
            f"logs/{NAME}/measure_speed-{{part}}.log",
        wildcard_constraints:
            part="|".join(SPEEDS),
        conda:
            ENVIRONMENT
        threads: MACHINE
        resources:
            **asked(EXPERIMENT.execution.measure),
        params:
            experiment=NAME,
            key=lambda wildcards: SPEEDS[wildcards.part],
            # The content of the file at this key: a changed plan measures again.
            plan=lambda wildcards: plain(getattr(EXPERIMENT, SPEEDS[wildcards.part])),
            samples=f"{RESULTS}/speed",
            runs=RUNS,
        shell:
            f"python -m repvgg_companion measure-speed --experiment {{params.experiment}} --plan '{RESOLVED}#{{params.key}}' "
            "--output {output} --samples {params.samples} --runs {params.runs} "
            f"--state {MEASURING}{{wildcards.part}} --forget "
            "--log {log}"


if EXPERIMENT.kernel_size:

    rule measure_kernel_sizes:
        output:
            f"{PARTS}/kernel_size.csv",
        log:
            f"logs/{NAME}/measure_kernel_sizes.log",
        conda:
            ENVIRONMENT
        threads: MACHINE
        resources:
            **asked(EXPERIMENT.execution.measure),
        params:
            experiment=NAME,
            plan=plain(EXPERIMENT.kernel_size),
            samples=f"{RESULTS}/speed",
            runs=RUNS,
        shell:
            "python -m repvgg_companion measure-kernel-sizes --experiment {params.experiment} "
            f"--plan '{RESOLVED}#kernel_size' "
            "--output {output} --samples {params.samples} --runs {params.runs} "
            f"--state {MEASURING}kernel_size --forget "
            "--log {log}"


if EXPERIMENT.memory:

    rule measure_memory:
        output:
            f"{PARTS}/memory.csv",
        log:
            f"logs/{NAME}/measure_memory.log",
        conda:
            ENVIRONMENT
        threads: MACHINE
        resources:
            **asked(EXPERIMENT.execution.measure),
        params:
            experiment=NAME,
            plan=plain(EXPERIMENT.memory),
            runs=RUNS,
        shell:
            f"python -m repvgg_companion measure-memory --experiment {{params.experiment}} --plan '{RESOLVED}#memory' "
            "--output {output} --runs {params.runs} "
            f"--state {MEASURING}memory --forget "
            "--log {log}"
