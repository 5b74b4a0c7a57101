# One job for each model, recipe and seed. The training state lies outside the declared outputs, because Snakemake
# removes the outputs of a failed job; what is declared here is published last, by rename.
if TRAINED:

    rule train:
        input:
            train_manifest=lambda wildcards: ancient(train_manifest(EXPERIMENT, trained(wildcards).recipe)),
            val_manifest=ancient(f"{DATA}/val.parquet"),
        output:
            weights=f"results/weights/{DATASET}/{{model}}/{{digest}}/seed{{seed}}/train.safetensors",
            history=f"results/weights/{DATASET}/{{model}}/{{digest}}/seed{{seed}}/history.csv",
        log:
            f"logs/{NAME}/train-{{model}}-{{digest}}-seed{{seed}}.log",
        benchmark:
            f"{RESULTS}/benchmarks/train-{{model}}-{{digest}}-seed{{seed}}.tsv"
        # In the order of the experiment file, so that it can list the longest first.
        priority: lambda wildcards: ORDER[trained(wildcards).key]
        conda:
            ENVIRONMENT
        threads: lambda wildcards: train_resources(EXPERIMENT, wildcards.model).threads
        resources:
            gpu=lambda wildcards: train_resources(EXPERIMENT, wildcards.model).gpu,
            mem_mb=lambda wildcards: train_resources(EXPERIMENT, wildcards.model).mem_mb,
            runtime=lambda wildcards: train_resources(EXPERIMENT, wildcards.model).minutes,
        params:
            state=lambda wildcards: trained(wildcards).state,
            width=lambda wildcards: trained(wildcards).width,
            recipe_name=lambda wildcards: trained(wildcards).recipe,
            # The content of the file at this key: a changed recipe trains again.
            recipe=lambda wildcards: recipe_json(EXPERIMENT, trained(wildcards).recipe),
            classes=f"--num-classes {EXPERIMENT.data.num_classes}" if EXPERIMENT.data.num_classes else "",
            experiment=NAME,
            dataset=DATASET,
            undecodable=EXPERIMENT.data.undecodable,
            backbone=lambda wildcards: f"--backbone {backbone}" if (backbone := trained(wildcards).backbone) else "",
        shell:
            "python -m repvgg_companion train --experiment {params.experiment} --dataset {params.dataset} "
            "--model {wildcards.model} --width {params.width} {params.classes} "
            f"--recipe-name {{params.recipe_name}} --recipe '{RESOLVED}#recipes.{{params.recipe_name}}' "
            "--training-digest {wildcards.digest} "
            "--seed {wildcards.seed} {params.backbone} --train-manifest {input.train_manifest} "
            "--val-manifest {input.val_manifest} "
            "--undecodable {params.undecodable} --state {params.state} --gpus {resources.gpu} "
            # On this machine nothing enforces `runtime`; a scheduler does.
            + ("--time-limit {resources.runtime} " if workflow.remote_exec else "")
            + "--output {output.weights} --history {output.history} "
            "--log {log}"


# With released weights there is no rule that trains, so a missing file is an error and does not start a training.
if IMPORTED:

    rule import_weights:
        input:
            lambda wildcards: IMPORTED[wildcards.imported].source,
        output:
            "{imported}.safetensors",
        log:
            f"logs/{NAME}/import_weights/{{imported}}.log",
        wildcard_constraints:
            imported="|".join(map(re.escape, IMPORTED)),
        conda:
            ENVIRONMENT
        params:
            dataset=DATASET,
            model=lambda wildcards: IMPORTED[wildcards.imported].model,
        shell:
            "python -m repvgg_companion weights --log {log} convert {input:q} --to companion --model {params.model} "
            "--dataset {params.dataset} --output {output}"
