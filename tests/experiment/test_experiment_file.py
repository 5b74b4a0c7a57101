"""Experiment files: what is accepted, and the one sentence for what is not."""

import argparse
import csv
import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from repvgg_companion.data.index import index
from repvgg_companion.errors import CompanionError
from repvgg_companion.experiment.experiment_file import SOURCES
from repvgg_companion.experiment.load import load_experiment, read_experiment, require_backbones, require_sources
from repvgg_companion.experiment.paths import batches, digest_of, source_options, weights_of
from repvgg_companion.experiment.schema import SCHEMA_FILE, schema_text
from repvgg_companion.models.names import VARIATIONS

ROOT = Path(__file__).resolve().parents[2]
STUDIES = ("study-tiny-imagenet", "study-tiny-imagenet-table7", "study-cifar10", "study-cifar10-table7")
CONFIGS = [
    ROOT / "config" / f"{name}.yaml"
    for name in ("cityscapes", "demo", "imagenet", "released", "tiny-imagenet", *STUDIES)
]
"""Those that come with the companion; a user may have others there."""


def demo() -> dict:
    return yaml.safe_load((ROOT / "config" / "demo.yaml").read_text())


def changed(path: str, value) -> dict:
    config = demo()
    *parents, last = path.split(".")
    place = config
    for part in parents:
        place = place[int(part) if isinstance(place, list) else part]
    if isinstance(place, list):
        place[int(last)] = value
    else:
        place[last] = value
    return config


def test_the_committed_schema_is_the_generated_one():
    assert (ROOT / SCHEMA_FILE).read_text() == schema_text(), "run: python -m repvgg_companion schema"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_experiment_file_is_valid_and_named_after_itself(path):
    experiment = read_experiment(path)
    assert experiment.experiment == path.stem
    jsonschema.validate(yaml.safe_load(path.read_text()), json.loads(schema_text()))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("data.zipp", "x.zip", r"f\.yaml: data\.zipp is not a known key; did you mean zip\?"),
        ("extra", 1, r"f\.yaml: extra is not a known key"),
        ("recipes.demo-2-epochs.learning_rat", 1, r"f\.yaml: recipes\.demo-2-epochs: learning_rat is not a known key"),
        ("recipes.demo-2-epochs.epochs", 0, r"f\.yaml: recipes\.demo-2-epochs: epochs is 0"),
        ("speed.round", 1, r"f\.yaml: speed(\.|: )round is not a known key; did you mean rounds"),
        ("recipes.demo-2-epochs", {"epochz": 2}, r"f\.yaml: recipes\.demo-2-epochs: epochz is not a known key"),
        ("memory", {"modelz": ["RepVGG-A0"]}, r"f\.yaml: memory(\.|: )modelz is not a known key; did you mean models"),
        (
            "training.0.models.0",
            "RepVGG-A9",
            r"f\.yaml: training\[0\]\.models: there is no model .*RepVGG-A9.*RepVGG-A0",
        ),
        ("training.1.models.1", "RepVGG-B3", r"f\.yaml: training\[1\]\.models: model RepVGG-B3 is named twice"),
        ("training.0.recipe", "missing", r"f\.yaml: training names the recipe missing.*demo-2-epochs"),
        ("training.0.recipe", "demo-2-epoch", r"which recipes does not define; did you mean demo-2-epochs\?"),
        (
            "speed.models.0",
            "RepVGG-A9",
            r"f\.yaml: speed: .*model 'RepVGG-A9'; the nearest names are RepVGG-A",
        ),
        ("memory.models.0", "repvgg-a0", r"f\.yaml: memory: .*the nearest names are RepVGG-A0,"),
        ("speed.anchor", "ResNet18", r"f\.yaml: speed: anchor ResNet18 .*; did you mean ResNet-18\?"),
        ("speed.backends", ["openvio"], r"f\.yaml: speed: backends is 'openvio'; .*; did you mean openvino\?"),
        ("speed.protocols", ["papr"], r"f\.yaml: speed: protocols is 'papr'; .*; did you mean paper\?"),
        ("recipes.demo-2-epochs.decoder", "pilow", r"decoder is 'pilow'; .*; did you mean pillow\?"),
        ("training.0.seeds", [1, 1], r"seed 1 is named twice"),
        ("data.dataset", "Demo/x", r"f\.yaml: data\.dataset"),
        ("data.zip", "x.zip", r"f\.yaml: data: the images are named twice, by generate and by zip"),
        ("data.classes", ["n01443537", "n01443537"], r"f\.yaml: data\.classes: class n01443537 is named twice"),
        ("data.generate", None, r"f\.yaml: data: no images are named; set one of generate, train_archive"),
        ("evaluation.protocol", "resize256", r"f\.yaml: evaluation\.protocol"),
        ("evaluation.protocol", "crop32-bilinear-pilow", r"one of pillow, .*; did you mean crop32-bilinear-pillow\?"),
        (
            "evaluation.protocol",
            "resize72-crop128-bilinear-pillow",
            r"f\.yaml: evaluation\.protocol: .* would crop 128 pixels from a side of 72 and pad .*; resize to at least",
        ),
        (
            "evaluation.further_protocols",
            ["resize31-crop32-bicubic-torchvision"],
            "would crop 32 pixels from a side of 31",
        ),
        ("evaluation.protocol_by_model", {"RepVGG-A0": "resize31-crop32-bilinear-pillow"}, "from a side of 31"),
        (
            "recipes.demo-2-epochs.validation",
            "resize31-crop32-bilinear-pillow",
            r"f\.yaml: recipes\.demo-2-epochs: .* would crop 32 pixels from a side of 31",
        ),
        ("execution.train", {"runtime": "soon"}, r"f\.yaml: execution\.train\.runtime"),
    ],
)
def test_mistakes_are_one_sentence_with_file_and_key(path, value, message):
    with pytest.raises(CompanionError, match=message) as caught:
        load_experiment(changed(path, value), "f.yaml")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_missing_keys_files_and_yaml_are_named(tmp_path):
    config = demo()
    del config["data"]
    with pytest.raises(CompanionError, match=r"f\.yaml: data is missing"):
        load_experiment(config, "f.yaml")
    with pytest.raises(CompanionError, match="does not exist"):
        read_experiment(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1\n")
    with pytest.raises(CompanionError, match="not valid YAML"):
        read_experiment(tmp_path / "bad.yaml")
    with pytest.raises(CompanionError, match="is a folder; name the experiment file in it"):
        read_experiment(tmp_path)
    tiny = yaml.safe_load((ROOT / "config" / "tiny-imagenet.yaml").read_text())
    tiny["data"]["zip"] = str(tmp_path / "none.zip")
    with pytest.raises(CompanionError, match=r"tiny\.yaml: data\.zip is .*none\.zip, which does not exist"):
        require_sources(load_experiment(tiny, "tiny.yaml"), "tiny.yaml")


def test_a_wrong_folder_is_called_a_folder_and_the_path_is_what_to_correct(tmp_path):
    config = demo()
    (tmp_path / "val").mkdir()
    config["data"] = {"dataset": "mine", "train_folder": str(tmp_path / "val"), "val_folder": str(tmp_path / "vall")}
    with pytest.raises(CompanionError) as caught:
        require_sources(load_experiment(config, "f.yaml"), "f.yaml")
    assert f"vall, which does not exist (but {tmp_path}/val does); correct the path, put the folder" in str(
        caught.value
    )
    config["data"] = {"dataset": "mine", "zip": str(tmp_path / "none" / "tiny.zip")}
    with pytest.raises(CompanionError, match=r"tiny\.zip, which does not exist; correct the path, put the file there"):
        require_sources(load_experiment(config, "f.yaml"), "f.yaml")


def test_images_may_be_gone_only_where_an_index_was_made_from_them(tmp_path):
    tiny = yaml.safe_load((ROOT / "config" / "tiny-imagenet.yaml").read_text())
    tiny["data"]["zip"] = "images/none.zip"
    experiment = load_experiment(tiny, "tiny.yaml")
    indexed = tmp_path / "dataset.json"
    indexed.write_text('{"sources": ["images/none.zip"]}')
    with pytest.raises(CompanionError, match="does not exist"):  # the index was not finished
        require_sources(experiment, "tiny.yaml", indexed)
    (tmp_path / "val.parquet").touch()
    require_sources(experiment, "tiny.yaml", indexed)
    indexed.write_text('{"sources": ["images/tiny.zip"]}')
    with pytest.raises(CompanionError, match=r"tiny\.yaml: data\.zip is images/none\.zip, which does not exist"):
        require_sources(experiment, "tiny.yaml", indexed)


def test_a_backbone_that_is_no_file_is_named(tmp_path):
    config = yaml.safe_load((ROOT / "config" / "cityscapes.yaml").read_text())
    for path, said in ((tmp_path, "is a folder; name the weights file in it"), (tmp_path / "none", "does not exist")):
        for group in config["training"]:
            group["backbones"] = dict.fromkeys(group["backbones"], str(path))
        with pytest.raises(CompanionError, match=f"city.yaml: training backbones .* is {path}, which {said}"):
            require_backbones(load_experiment(config, "city.yaml"), "city.yaml")


def test_sources_need_their_companions():
    config = demo()
    config["data"] = {"dataset": "imagenet", "train_archive": "t.tar", "devkit_archive": "d.tar.gz"}
    with pytest.raises(CompanionError, match="needs val_archive"):
        load_experiment(config, "f")
    config["data"] |= {"val_archive": "v.tar", "labels": "labels.txt"}
    with pytest.raises(CompanionError, match="devkit_archive and labels both number the classes"):
        load_experiment(config, "f")
    config["data"] = {"dataset": "imagenet", "val_archive": "v.tar", "devkit_archive": "d.tar.gz"}
    with pytest.raises(CompanionError, match="training needs training images"):
        load_experiment(config, "f")
    assert set(SOURCES) <= set(type(load_experiment(demo(), "f").data).model_fields)


VALIDATION_ALONE = {
    "an archive": {"val_archive": "v.tar"},
    "an archive and a devkit": {"val_archive": "v.tar", "devkit_archive": "d.tar.gz"},
    "a folder": {"val_folder": "val"},
    "a flat folder and a devkit": {"val_folder": "val", "devkit_archive": "d.tar.gz"},
    "a folder and a labels file": {"val_folder": "val", "labels": "labels.txt"},
    "a zip": {"zip": "v.zip"},
    "Kaggle's folder": {"kaggle_folder": "kaggle"},
    "Parquet shards": {"parquet_folder": "shards"},
}


@pytest.mark.parametrize("form", VALIDATION_ALONE)
def test_released_weights_need_validation_images_only_in_every_form(form):
    """The schema takes what the verb `index` takes; `tests/data/test_validation_alone.py` runs the verb."""
    config = yaml.safe_load((ROOT / "config" / "released.yaml").read_text())
    config["data"] = {"dataset": "imagenet", **VALIDATION_ALONE[form]}
    experiment = load_experiment(config, "f")
    options = source_options(experiment, "")
    assert sorted(options.values()) == sorted(VALIDATION_ALONE[form].values())
    parser = argparse.ArgumentParser()
    index.add_arguments(parser)
    words = [word for pair in options.items() for word in pair]
    assert parser.parse_args(["--dataset", "d", "--output", "o", *words])


def test_a_path_of_images_may_begin_with_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    config = demo()
    config["data"] = {"dataset": "imagenet", "zip": "~/tiny.zip"}
    assert load_experiment(config, "f").data.source == {"zip": "/home/someone/tiny.zip"}


def test_only_the_changed_recipe_gets_another_digest():
    before = {weights.model: weights for weights in weights_of(load_experiment(demo(), "f"))}
    after = {
        weights.model: weights
        for weights in weights_of(load_experiment(changed("recipes.demo-5-epochs.epochs", 9), "f"))
    }
    moved = {model for model in before if before[model].digest != after[model].digest}
    users = {weights.model for weights in before.values() if weights.recipe == "demo-5-epochs"}
    assert moved == users and users and users != set(before)
    for weights in before.values():
        assert weights.folder == f"results/weights/demo-digits/{weights.model}/{weights.digest}/seed0"
        assert weights.state == weights.folder.replace("results/weights", "results/state")


def test_another_name_for_the_same_recipe_keeps_the_weights():
    config = demo()
    config["recipes"]["renamed"] = config["recipes"]["demo-2-epochs"]
    experiment = load_experiment(config, "f")
    first = [digest_of(experiment, "RepVGG-A0", name, 0.25) for name in ("demo-2-epochs", "renamed")]
    assert first[0] == first[1]


def test_batches_cover_all_weights_once():
    weights = weights_of(load_experiment(demo(), "f"))
    for size in (1, 4, 100):
        cut = list(batches(weights, size))
        assert [one for _, members in cut for one in members] == weights
        assert len({name for name, _ in cut}) == len(cut) and max(len(members) for _, members in cut) <= size


def test_imagenet_has_the_published_recipes_and_every_model_of_tables_4_to_7():
    experiment = read_experiment(ROOT / "config" / "imagenet.yaml")
    assert {"120-epochs", "200-epochs"} <= set(experiment.recipes)  # tests/training/test_recipe.py pins their settings
    wide = {
        **experiment.recipes["200-epochs"].settings(),
        "input_px": 300,
        "validation": "resize343-crop300-bilinear-torchvision",
    }
    assert experiment.recipes["200-epochs-300px"].settings() == wide
    trained = {(weights.model, weights.recipe.removesuffix("-300px")) for weights in weights_of(experiment)}
    for table, recipe in (("table4_120epochs", "120-epochs"), ("table5_200epochs", "200-epochs")):
        with (ROOT / "paper" / f"{table}.csv").open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                assert (row["model"], recipe) in trained, row["model"]
    for variation in VARIATIONS:
        assert (f"RepVGG-B0_{variation}", "120-epochs") in trained
    assert ("ResNet-50_repvgg-blocks", "120-epochs") in trained
