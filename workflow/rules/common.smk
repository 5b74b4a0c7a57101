# What the rules ask of the experiment and of the package.
def trained(wildcards):
    """The weights that a path names; a digest that is not the configuration's is refused, never trained."""
    key = (wildcards.model, wildcards.digest, wildcards.seed)
    if key not in TRAINED:
        sys.exit(
            f"{ORIGIN} trains no {wildcards.model} with digest {wildcards.digest} and seed {wildcards.seed}; "
            "see the paths that a dry run lists"
        )
    return TRAINED[key]


def modules(folder):
    """The source files of a cheap rule: Snakemake compares them by checksum, so an edit re-runs it, a checkout does not."""
    found = (HERE / "src" / "repvgg_companion" / folder).rglob("*")
    return sorted(str(path) for path in found if path.suffix in (".py", ".mplstyle", ".j2"))


def modules_without_figures(folder):
    """The same for rules that draw nothing: another style of the figures does not concern them."""
    return [
        path for path in modules(folder) if not (path.endswith(".mplstyle") or Path(path).name.startswith("figure"))
    ]


def source_of(verb):
    """The source file of one verb."""
    return str(HERE.joinpath("src", "repvgg_companion", *VERBS[verb][0].split(".")).with_suffix(".py"))


def asked(resources):
    """What a rule asks the scheduler for, from the experiment file."""
    return {"gpu": resources.gpu, "mem_mb": resources.mem_mb, "runtime": resources.minutes}
