# Archives to manifests and to the decode-once cache of the validation images.
import os
import shlex

DEMO_FOLDER = f"{DATA}/archives"
SOURCE = source_options(EXPERIMENT, DEMO_FOLDER)
# The names of the files in folders of images are a parameter of `index`: added or removed images are indexed again.
FOLDERS = [path for path in SOURCE.values() if os.path.isdir(path)]
CHOSEN = ["--classes", *map(shlex.quote, EXPERIMENT.data.classes)] if EXPERIMENT.data.classes else []
SPLITS = ["train", "val"] if EXPERIMENT.training else ["val"]
# Only the images themselves show whether these forms hold training images.
NEEDS_TRAIN = (
    ["--needs-train"]
    if EXPERIMENT.training and {"zip", "kaggle_folder", "parquet_folder"} & {*EXPERIMENT.data.source}
    else []
)
# In the command but not in `params`: another batch size does not run `index` again.
WHOLE_BATCH = f"--largest-batch {max(batch_sizes(EXPERIMENT).values())} " if EXPERIMENT.training else ""


if EXPERIMENT.data.source.get("generate"):

    rule make_demo_data:
        input:
            source_of("make-demo-data"),
        output:
            archives=list(SOURCE.values()),
            digests=f"{DEMO_FOLDER}/MD5SUMS",
        log:
            f"logs/{NAME}/make_demo_data.log",
        conda:
            ENVIRONMENT
        params:
            folder=lambda wildcards: DEMO_FOLDER,
        shell:
            "python -m repvgg_companion make-demo-data --output {params.folder} --log {log}"


MANIFESTS = [f"{DATA}/{split}.parquet" for split in SPLITS]

# Images may be deleted once they are indexed. Then there is no rule, and the manifests are ordinary files: with a rule
# Snakemake would take the missing images for a change, and remove the manifests before it indexed again.
MISSING = missing_sources(EXPERIMENT)
if not (MISSING and all(map(os.path.exists, MANIFESTS))):

    rule index:
        input:
            # Missing files are named by require_sources before any job starts; a dry run goes on without them. A path
            # with braces cannot be an input, since Snakemake takes them for wildcards: a change of it re-runs nothing.
            # The date of a folder is ignored: a copy has another one, and a new image in a subfolder leaves it alone.
            (
                []
                if MISSING
                else [ancient(path) if path in FOLDERS else path for path in SOURCE.values() if "{" not in path]
            ),
        output:
            manifests=MANIFESTS,
            dataset=f"{DATA}/dataset.json",
        log:
            f"logs/{NAME}/index.log",
        benchmark:
            f"{RESULTS}/benchmarks/index.tsv"
        conda:
            ENVIRONMENT
        resources:
            **asked(EXPERIMENT.execution.index),
        params:
            **({"names": lambda wildcards: [names_below(path) for path in FOLDERS]} if FOLDERS else {}),
            source=lambda wildcards: " ".join(
                [*(f"{option} {shlex.quote(path)}" for option, path in SOURCE.items()), *CHOSEN, *NEEDS_TRAIN]
            ),
            dataset=DATASET,
            folder=lambda wildcards: DATA,
            classes=f"--num-classes {EXPERIMENT.data.num_classes}" if EXPERIMENT.data.num_classes else "",
            verify="--verify" if EXPERIMENT.data.verify else "--no-verify",
        shell:
            "python -m repvgg_companion index --dataset {params.dataset} {params.source} {params.classes} {params.verify} "
            f"{WHOLE_BATCH}--output {{params.folder}} --log {{log}}"


# For recipes that train on a smaller, re-encoded copy; `packed: short256-q90` in a recipe asks for one. The tar beside
# the manifest is not a declared output: Snakemake touches those, and an archive newer than its index is refused.
rule pack:
    input:
        manifest=f"{DATA}/train.parquet",
    output:
        manifest=f"{DATA}/packed/short{{short_side}}-q{{quality}}/train.parquet",
    log:
        f"logs/{NAME}/pack-short{{short_side}}-q{{quality}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/pack-short{{short_side}}-q{{quality}}.tsv"
    wildcard_constraints:
        short_side=r"\d+",
        quality=r"\d+",
    conda:
        ENVIRONMENT
    threads: EXPERIMENT.execution.index.threads
    resources:
        **asked(EXPERIMENT.execution.index),
    params:
        undecodable=EXPERIMENT.data.undecodable,
    shell:
        "python -m repvgg_companion pack --manifest {input.manifest} --output {output.manifest} --workers {threads} "
        "--short-side {wildcards.short_side} --quality {wildcards.quality} --undecodable {params.undecodable} "
        "--log {log}"


rule cache:
    input:
        manifest=f"{DATA}/val.parquet",
    output:
        f"{DATA}/cache/{{protocol}}.npy",
    log:
        f"logs/{NAME}/cache-{{protocol}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/cache-{{protocol}}.tsv"
    conda:
        ENVIRONMENT
    resources:
        **asked(EXPERIMENT.execution.index),
    params:
        undecodable=EXPERIMENT.data.undecodable,
    shell:
        "python -m repvgg_companion cache --manifest {input.manifest} --protocol {wildcards.protocol} "
        "--undecodable {params.undecodable} --output {output} --log {log}"
