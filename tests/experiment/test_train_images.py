"""A batch that is larger than the training set is told as early as the number of images is known."""

import os
from pathlib import Path

import pytest

from repvgg_companion.errors import CompanionError
from repvgg_companion.experiment.load import load_experiment
from repvgg_companion.experiment.train_images import require_train_images
from repvgg_companion.files import write_json

RECIPES = {"short": {"epochs": 1, "global_batch_size": 4, "batch_norm_batch_size": 4},
           "long": {"epochs": 9, "global_batch_size": 2, "batch_norm_batch_size": 2}}  # fmt: skip


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Check an experiment whose data are some keys, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def check(recipe: str = "short", **data) -> None:
        config = {"experiment": "e", "data": {"dataset": "d", **data}, "recipes": RECIPES}
        experiment = load_experiment(config | {"training": [{"models": ["RepVGG-A0"], "recipe": recipe}]}, "f.yaml")
        require_train_images(experiment, "f.yaml", Path("dataset.json"))

    return check


def test_images_of_a_folder_are_counted_at_the_start(check):
    for name in ("images/a/1.png", "images/b/deep/2.JPEG", "images/b/3.png", "images/b/notes.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    folders = {"train_folder": "images", "val_folder": "images"}
    with pytest.raises(CompanionError) as caught:
        check(**folders)
    assert str(caught.value) == (
        "f.yaml: a batch of 4 is larger than the training set of 3 images; set a smaller global_batch_size in the "
        "recipe short, and a batch_norm_batch_size that divides it"
    )
    check("long", **folders)
    Path("images/c").symlink_to(Path("images/a").absolute())  # links are followed, as by the index
    check(**folders)
    Path("images/c").unlink()
    Path("images/a/around").symlink_to(Path("images").absolute())
    with pytest.raises(CompanionError, match="training set of 3 images"):
        check(**folders)


def test_an_index_of_the_same_images_is_believed_and_no_other(check):
    Path("t.zip").touch()
    facts = {"train": {"n_images": 3}, "sources": ["t.zip"], "chosen_classes": []}
    check(zip="t.zip")  # nobody knows yet
    write_json(Path("dataset.json"), facts)
    with pytest.raises(CompanionError, match="a batch of 4 is larger than the training set of 3 images"):
        check(zip="t.zip")
    check("long", zip="t.zip")
    check(zip="t.zip", classes=["n01443537"])
    check(zip="other.zip")
    check(val_folder="t.zip", train_folder="other")
    later = Path("dataset.json").stat().st_mtime + 5
    os.utime("t.zip", (later, later))
    check(zip="t.zip")
    write_json(Path("dataset.json"), {"val": {"n_images": 3}, "sources": ["t.zip"], "chosen_classes": []})
    os.utime("t.zip", (1, 1))
    check(zip="t.zip")
