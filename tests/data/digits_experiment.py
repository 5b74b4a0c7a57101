"""A small experiment file for tests: the whole chain on made-up digits, with a network that trains in seconds."""


def digits_experiment(name: str, *, epochs: int, recipe: str = "short", training: dict | None = None, **parts) -> dict:
    """The content of an experiment file `name` that trains a narrow RepVGG-A0 on digits.

    `training` adds keys to its one training group, such as seeds; `parts` add keys to the file or replace them.
    """
    protocol = "resize32-crop32-bilinear-pillow"
    settings = {
        "epochs": epochs, "global_batch_size": 32, "learning_rate": 0.02, "augmentation": "none", "input_px": 32,
        "validation": protocol, "decoder": "pillow", "precision": "fp32", "memory_format": "channels_last",
        "threads": 1,
    }  # fmt: skip
    return {
        "experiment": name,
        "data": {"dataset": "demo-digits", "num_classes": 10, "generate": "digits"},
        "recipes": {recipe: settings},
        "training": [{"models": ["RepVGG-A0"], "recipe": recipe, "width": 0.0625} | (training or {})],
        "evaluation": {"protocol": protocol},
        "execution": {"models_per_job": 2},
        **parts,
    }
