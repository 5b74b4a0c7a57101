"""Released weights, without training: a classifier of known accuracy, from each layout that people publish."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from repvgg_companion.contract import read_rows
from repvgg_companion.models.build import build_model
from repvgg_companion.weights.writing import write_layout

from .conftest import snakemake, write_config

pytestmark = pytest.mark.slow

CLASSES = 1000
WRONG = 137
"""So many of the 1000 images carry the label of the next class, so top-1 is 86.3 %."""
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
PROTOCOL = "resize32-crop32-bilinear-pillow"


def colours() -> np.ndarray:
    """One colour per class [1000, 3], 25 levels apart."""
    return np.array([(15 + 25 * i, 15 + 25 * j, 15 + 25 * k) for i in range(10) for j in range(10) for k in range(10)])


def colour_classifier() -> dict[str, torch.Tensor]:
    """RepVGG-A0 in train form that names the nearest colour: each block passes on six channels, +x and -x of a colour.

    Only the centre tap of the 3x3 branch is set, all other branches have a batch norm of weight 0.
    """
    module = build_model("RepVGG-A0", num_classes=CLASSES)
    state = {key: torch.zeros_like(value) for key, value in module.state_dict().items()}
    for key in state:
        if key.endswith("running_var"):
            state[key].fill_(1.0)
        if key.endswith("rbr_dense.bn.weight"):
            state[key].fill_((1 + 1e-5) ** 0.5)
        if key.endswith("rbr_dense.conv.weight"):
            for channel in range(6):
                if key.startswith("stage0."):
                    state[key][channel, channel % 3, 1, 1] = 1.0 if channel < 3 else -1.0
                else:
                    state[key][channel, channel, 1, 1] = 1.0
    centres = torch.tensor((colours() / 255 - MEAN) / STD, dtype=torch.float32)
    state["linear.weight"][:, :3] = 2 * centres
    state["linear.weight"][:, 3:6] = -2 * centres
    state["linear.bias"] = -(centres**2).sum(dim=1)
    return state


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def write_validation(folder) -> None:
    """1000 flat JPEGs, one per class, in random order; class IDs are a permutation, as in the real devkit."""
    generator = np.random.default_rng(0)
    ids = generator.permutation(CLASSES) + 1
    order = generator.permutation(CLASSES)
    wrong = set(generator.choice(CLASSES, WRONG, replace=False).tolist())
    wnids = [f"n{10_000_000 + 7 * label:08d}" for label in range(CLASSES)]
    truth = []
    with tarfile.open(folder / "val.tar", "w") as archive:
        for number, label in enumerate(order, start=1):
            stream = io.BytesIO()
            Image.new("RGB", (32, 32), tuple(int(part) for part in colours()[label])).save(stream, "JPEG", quality=98)
            add(archive, f"ILSVRC2012_val_{number:08d}.JPEG", stream.getvalue())
            truth.append(ids[(label + 1) % CLASSES if label in wrong else label])
    names = ["ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height",
             "num_train_images"]  # fmt: skip
    synsets = np.zeros(CLASSES, dtype=[(name, object) for name in names])
    for label in range(CLASSES):
        synsets[ids[label] - 1] = (
            float(ids[label]),
            wnids[label],
            f"word {label}",
            "",
            0.0,
            np.zeros((0, 0)),
            0.0,
            1.0,
        )
    mat = io.BytesIO()
    savemat(mat, {"synsets": synsets.reshape(-1, 1)})
    with tarfile.open(folder / "devkit.tar.gz", "w:gz") as archive:
        add(archive, "ILSVRC2012_devkit_t12/data/meta.mat", mat.getvalue())
        text = "".join(f"{number}\n" for number in truth).encode()
        add(archive, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", text)


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    folder = tmp_path_factory.mktemp("released")
    write_validation(folder)
    state = colour_classifier()
    (folder / "weights").mkdir()
    torch.save(state, folder / "weights" / "RepVGG-A0-mine.pth")
    write_layout(state, "timm", folder / "weights" / "timm.safetensors")
    write_layout(state, "mmpretrain", folder / "weights" / "mmpretrain.pth")
    config = {
        "experiment": "released",
        "data": {
            "dataset": "imagenet",
            "num_classes": CLASSES,
            "val_archive": "val.tar",
            "devkit_archive": "devkit.tar.gz",
            "verify": False,
        },
        "released": {"folder": "weights"},
        "evaluation": {"protocol": PROTOCOL},
        "reparameterization_inputs": 16,
        "execution": {"models_per_job": 3},
    }
    path = write_config(folder, config, "released.yaml")
    done = snakemake(folder, "--configfile", path)
    return folder, path, done


def test_the_known_accuracy_comes_out_of_each_layout_in_both_forms(released):
    folder, _, _ = released
    rows = read_rows(folder / "results/released/accuracy.csv", "accuracy")
    assert len({row["training_digest"] for row in rows}) == 3 and len(rows) == 6
    for row in rows:
        assert row["top1_pct"] == pytest.approx(100 * (CLASSES - WRONG) / CLASSES, abs=1e-9)
        assert row["n_images"] == CLASSES and row["recipe"] == "released" and row["seed"] == "none"
    certificates = read_rows(folder / "results/released/reparameterization.csv", "reparameterization")
    assert len(certificates) == 3 and all(row["passed"] for row in certificates)


def test_nothing_is_trained_and_a_second_run_has_nothing_to_do(released):
    folder, path, done = released
    assert "rule train:" not in done.stdout + done.stderr
    again = snakemake(folder, "--configfile", path)
    assert "Nothing to be done" in again.stdout + again.stderr


def test_a_damaged_or_missing_file_is_one_sentence(released, tmp_path):
    folder, path, _ = released
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "RepVGG-A0-train.pth").write_bytes(b"not a weights file")
    for weights, words in ((tmp_path / "broken", "RepVGG-A0-train.pth"), (tmp_path / "none", "released.folder")):
        done = snakemake(
            folder, "--configfile", path, "--config", f"released={{folder: {weights}}}",
            "experiment=other", check=False,
        )  # fmt: skip
        output = done.stdout + done.stderr
        assert done.returncode != 0 and words in output and "Traceback" not in output
