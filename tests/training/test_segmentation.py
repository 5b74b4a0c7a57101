"""PSPNet on a tiny Cityscapes tree: trained, stopped and continued, converted and scored by the real verbs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cityscapes_tree import write_tree
from training_environment import start_file

from repvgg_companion.__main__ import main
from repvgg_companion.contract import read_rows
from repvgg_companion.data.batches.normalize import normalize
from repvgg_companion.data.batches.segmentation_input import whole_images
from repvgg_companion.data.manifest import Manifest
from repvgg_companion.data.protocols import SlidingProtocol
from repvgg_companion.errors import CompanionError
from repvgg_companion.evaluation.intersection_over_union import image_draws, mean_iou_pct, resampled_mean_iou
from repvgg_companion.evaluation.predictions import read_counts
from repvgg_companion.files import sha256_of_file
from repvgg_companion.models.build import build_model
from repvgg_companion.models.pixel_classes import class_counts, slide
from repvgg_companion.models.start import start_from
from repvgg_companion.training.loop import STOP, Loop
from repvgg_companion.training.objective import segmentation
from repvgg_companion.training.recipe import Recipe
from repvgg_companion.weights_file import load_weights, save_weights

WIDTH, PX = 0.0625, 65
RECIPE = {
    "epochs": 6,
    "global_batch_size": 4,
    "batch_norm_batch_size": 2,
    "learning_rate": 0.05,
    "schedule": "poly",
    "augmentation": "scale-crop-flip",
    "input_px": PX,
    "validation": f"slide{PX}-pillow",
    "decoder": "pillow",
    "precision": "fp32",
    "memory_format": "channels_last",
    "threads": 1,
}
MODEL = "PSPNet-RepVGG-B1g2_fast"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cityscapes")
    tree = write_tree(folder / "tree")
    assert main(["index", "--dataset", "tiny", "--cityscapes-folder", str(tree), "--output", str(folder / "data")]) == 0
    return folder / "data"


def train(data: Path, folder: Path, *more: str, model: str = MODEL, recipe: dict | None = None) -> int:
    return main(
        [
            "train",
            "--dataset",
            "tiny",
            "--model",
            model,
            "--width",
            str(WIDTH),
            "--recipe-name",
            "tiny",
            "--recipe",
            json.dumps(RECIPE | (recipe or {})),
            "--train-manifest",
            str(data / "train.parquet"),
            "--val-manifest",
            str(data / "val.parquet"),
            "--state",
            str(folder / "state"),
            "--output",
            str(folder / "train.safetensors"),
            "--history",
            str(folder / "history.csv"),
            "--device",
            "cpu",
            *more,
        ]
    )


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    assert train(data, folder) == 0
    return folder


def test_it_learns_under_the_poly_schedule(trained):
    history = read_rows(trained / "history.csv", "history")
    steps = 2 * RECIPE["epochs"]
    for row in history:
        expected = RECIPE["learning_rate"] * (1 - 2 * (row["epoch"] - 1) / steps) ** 0.9
        assert row["learning_rate"] == pytest.approx(expected)
    assert history[-1]["train_loss"] < 0.7 * history[0]["train_loss"]
    # 19 classes, of which 4 occur: chance is 5 %, the largest class covers about half.
    assert history[-1]["train_top1_pct"] > 55 and history[-1]["val_top1_pct"] > 55
    _, identity = load_weights(trained / "train.safetensors")
    assert (identity.model, identity.num_classes, identity.backbone_sha256) == (MODEL, 19, "random")


def test_a_stopped_training_continues_bit_for_bit(data, trained, tmp_path, monkeypatch):
    requested = Loop._requested
    monkeypatch.setattr(Loop, "_requested", lambda loop: STOP if loop.step == 5 else requested(loop))
    assert train(data, tmp_path) == 75
    assert not (tmp_path / "train.safetensors").exists()
    monkeypatch.setattr(Loop, "_requested", requested)
    assert train(data, tmp_path) == 0
    assert sha256_of_file(tmp_path / "train.safetensors") == sha256_of_file(trained / "train.safetensors")
    kept = ["epoch", "learning_rate", "train_loss", "train_top1_pct", "val_top1_pct"]
    both = [read_rows(folder / "history.csv", "history") for folder in (tmp_path, trained)]
    assert [[row[name] for name in kept] for row in both[0]] == [[row[name] for name in kept] for row in both[1]]


@pytest.fixture(scope="module")
def scored(data, trained, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    common = ["--experiment", "tiny", "--val-manifest", str(data / "val.parquet"), "--runs", str(folder / "runs")]
    label = RECIPE["validation"]
    output = str(folder / "reparameterization.csv")
    assert (
        main(
            [
                "reparameterize",
                *common,
                "--weights",
                str(trained / "train.safetensors"),
                "--protocol",
                label,
                "--output",
                output,
                "--images",
                "3",
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    weights = [
        word for form in ("train", "deploy") for word in ("--weights", str(trained / f"{form}.safetensors"), label)
    ]
    assert (
        main(
            [
                "evaluate-segmentation",
                *common,
                *weights,
                "--output",
                str(folder / "segmentation.csv"),
                "--predictions",
                str(folder / "predictions"),
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    return folder


def test_both_forms_are_certified_and_scored(scored, trained):
    (certificate,) = read_rows(scored / "reparameterization.csv", "reparameterization")
    assert certificate["passed"] and certificate["float64_max_relative_error"] < 1e-10
    rows = {row["form"]: row for row in read_rows(scored / "segmentation.csv", "segmentation")}
    assert set(rows) == {"train", "deploy"}
    for row in rows.values():
        assert row["mean_iou_low_pct"] <= row["mean_iou_pct"] <= row["mean_iou_high_pct"]
        assert (row["n_images"], row["input_px"], row["backbone_sha256"]) == (4, PX, "random")
    assert rows["train"]["mean_iou_pct"] == pytest.approx(rows["deploy"]["mean_iou_pct"], abs=0.05)
    # The validation of the last epoch averages over images of one size, so it is nearly the share of all pixels.
    history = read_rows(trained / "history.csv", "history")
    assert rows["train"]["pixel_accuracy_pct"] == pytest.approx(history[-1]["val_top1_pct"], abs=0.5)


def test_the_score_is_that_of_its_definition(scored, trained, data):
    """Confusion matrix and IoU once more, from the definition, with windows placed by hand."""
    state, _ = load_weights(trained / "deploy.safetensors")
    network = build_model(MODEL, num_classes=19, width=WIDTH, form="deploy")
    network.load_state_dict(state)
    network.eval()
    confusion = np.zeros((19, 19), int)
    for image, labels in whole_images(Manifest.read(data / "val.parquet")):
        inputs = normalize(image, device="cpu")
        assert inputs.shape[2:] == (64, 96)
        with torch.no_grad():  # 64 rows fit into a window of 65; columns 0-64 and 31-95
            left, right = (network(part).softmax(1) for part in (inputs[..., :65], inputs[..., 31:]))
        total = torch.zeros(1, 19, 64, 96)
        total[..., :65] += left
        total[..., 31:] += right
        total[..., 31:65] /= 2
        for answer, label in zip(total.argmax(1).flatten().tolist(), labels.flatten().tolist(), strict=True):
            if label != 255:
                confusion[label, answer] += 1
    ious = [
        confusion[c, c] / union
        for c in range(19)
        if (union := confusion[c].sum() + confusion[:, c].sum() - confusion[c, c])
    ]
    row = next(row for row in read_rows(scored / "segmentation.csv", "segmentation") if row["form"] == "deploy")
    assert row["mean_iou_pct"] == pytest.approx(100 * np.mean(ious), abs=0.02)
    assert row["pixel_accuracy_pct"] == pytest.approx(100 * np.trace(confusion) / confusion.sum(), abs=0.02)
    counts = read_counts(next((scored / "predictions").glob("*__deploy__*")))
    assert mean_iou_pct(counts.sum(0)) == row["mean_iou_pct"]


def test_a_bootstrap_sample_is_the_score_of_the_images_drawn():
    random = np.random.default_rng(1)
    counts = random.integers(1, 50, (7, 3, 5))
    counts[:, 0] = np.minimum(counts[:, 1], counts[:, 2]) // 2
    draws = image_draws(7, 20)
    assert (draws.sum(axis=1) == 7).all()
    expected = [mean_iou_pct(np.repeat(counts, times, axis=0).sum(0)) for times in draws]
    assert np.allclose(resampled_mean_iou(counts, draws), expected)


def test_the_loss_leaves_void_pixels_out_and_adds_the_auxiliary_head():
    random = torch.Generator().manual_seed(0)
    final, auxiliary = (torch.randn(2, 19, 5, 4, generator=random) for _ in range(2))
    labels = torch.randint(0, 19, (2, 5, 4), generator=random).to(torch.uint8)
    labels[0, :3] = 255
    recipe = Recipe(epochs=1, auxiliary_weight=0.25)
    loss, right = segmentation((final, auxiliary), labels, recipe)
    valid = labels != 255

    def mean(logits):
        log = logits.log_softmax(1).permute(0, 2, 3, 1)[valid]
        return -log.gather(1, labels[valid].long()[:, None]).mean()

    assert loss == pytest.approx(float(mean(final) + 0.25 * mean(auxiliary)), abs=1e-5)
    hits = (final.argmax(1) == labels) & valid
    assert right == pytest.approx(sum(float(hits[i].sum() / valid[i].sum()) for i in range(2)))
    loss, right = segmentation((final, auxiliary), torch.full_like(labels, 255), recipe)
    assert float(loss) == 0 and float(right) == 0


def test_windows_are_averaged_where_they_overlap():
    class Constant(torch.nn.Module):
        def forward(self, images):  # the answer depends on the first pixel of the window, so that windows differ
            return images[:, :2, :1, :1].expand(-1, -1, *images.shape[2:])

    images = torch.zeros(1, 3, 4, 10)
    images[0, 0] = torch.arange(10.0)
    found = slide(Constant(), images, SlidingProtocol(6))
    windows = [images[:, :2, :1, start : start + 1].softmax(1) for start in (0, 4)]
    assert torch.allclose(found[..., :4], windows[0].expand(1, 2, 4, 4))
    assert torch.allclose(found[..., 4:6], ((windows[0] + windows[1]) / 2).expand(1, 2, 4, 2))
    assert torch.allclose(found[..., 6:], windows[1].expand(1, 2, 4, 4))
    counts = class_counts(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 2, 255]), 3)
    assert counts.tolist() == [[1, 1, 0], [1, 2, 0], [1, 1, 1]]


def backbone_file(path: Path, model: str = "RepVGG-B1g2", width: float = WIDTH, form: str = "train") -> Path:
    return start_file(path, model, width=width, form=form)


def test_the_backbone_starts_from_its_file(data, tmp_path):
    path = backbone_file(tmp_path / "backbone.safetensors")
    state, identity = load_weights(path)
    network = build_model(MODEL, num_classes=19, width=WIDTH)
    start_from(network, MODEL, state, identity, path)
    own = network.backbone.state_dict()
    assert own and all(torch.equal(own[key], state[key]) for key in own)
    assert train(data, tmp_path, "--backbone", str(path), recipe={"epochs": 1, "learning_rate": 1e-9}) == 0
    weights, trained_identity = load_weights(tmp_path / "train.safetensors")
    assert trained_identity.backbone_sha256 == sha256_of_file(path)
    kernel = "stage0.rbr_dense.conv.weight"
    assert torch.allclose(weights[f"backbone.{kernel}"], state[kernel], atol=1e-6)
    # Another file under the same name is another training: the state belongs to the first.
    backbone_file(path, form="deploy")
    assert train(data, tmp_path, "--backbone", str(path), recipe={"epochs": 1, "learning_rate": 1e-9}) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "RepVGG-B2"}, "holds the train form of RepVGG-B2, but the backbone of"),
        ({"form": "deploy"}, "holds the deploy form of RepVGG-B1g2"),
        ({"width": 0.125}, "does not fit the backbone of .* its width is 0.125"),
    ],
)
def test_a_file_that_is_no_backbone_is_refused(tmp_path, change, message):
    path = backbone_file(tmp_path / "file.safetensors", **change)
    network = build_model(MODEL, num_classes=19, width=WIDTH)
    with pytest.raises(CompanionError, match=message):
        start_from(network, MODEL, *load_weights(path), path)


@pytest.mark.parametrize(
    ("model", "recipe", "more", "message"),
    [
        ("RepVGG-A0", {}, (), "has label maps, but RepVGG-A0 classifies"),
        (MODEL, {"mixup_alpha": 0.2}, (), "mixup is not defined for that"),
        (
            MODEL,
            {"validation": "resize16-crop16-bilinear-pillow"},
            (),
            "needs a protocol that slides",
        ),
        (MODEL, {"augmentation": "crop-flip"}, (), "trained with scale-crop-flip"),
        (MODEL, {}, ("--backbone", "nowhere.safetensors"), "nowhere.safetensors do not exist"),
    ],
)
def test_what_does_not_fit_is_one_sentence(data, tmp_path, capsys, model, recipe, more, message):
    assert train(data, tmp_path, *more, model=model, recipe=recipe) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error and not (tmp_path / "train.safetensors").exists()


def test_weights_of_other_images_are_not_scored(data, trained, tmp_path, capsys):
    state, identity = load_weights(trained / "train.safetensors")
    path = tmp_path / "other.safetensors"
    save_weights(path, state, replace(identity, dataset_sha256="0" * 64))
    common = [
        "evaluate-segmentation",
        "--experiment",
        "x",
        "--val-manifest",
        str(data / "val.parquet"),
        "--runs",
        str(tmp_path / "runs"),
        "--output",
        str(tmp_path / "o.csv"),
        "--predictions",
        str(tmp_path),
    ]
    assert main([*common, "--weights", str(path), RECIPE["validation"]]) == 2
    assert "was trained on other images" in capsys.readouterr().err
    weights = str(trained / "train.safetensors")
    assert main([*common, "--weights", weights, "crop65-bilinear-pillow"]) == 2
    assert "evaluates single crops" in capsys.readouterr().err
