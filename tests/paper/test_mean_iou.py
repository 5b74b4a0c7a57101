"""Claims about Table 8 from segmentation.csv: printed numbers reproduce them, planted ones turn what rests on them."""

import numpy as np
import pytest
from paper_synthetic import PAPER, network, plant, speed_row

from repvgg_companion.contract import write_rows
from repvgg_companion.evaluation.intersection_over_union import mean_iou_pct
from repvgg_companion.identity import predictions_name
from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.claims import claim_rows
from repvgg_companion.paper.grammar import NotAvailable
from repvgg_companion.paper.mean_iou import over_images
from repvgg_companion.paper.ours import Results
from repvgg_companion.paper.printed import Facts
from repvgg_companion.paper.table_rows import rows_of

IMAGES, CLASSES, PIXELS = 500, 19, 10_000
ABOUT_MIOU = {"C48", "C49", "C50", "C51"}


@pytest.fixture
def facts():
    return Facts(PAPER)


def counts_of(iou: float, spread: float) -> np.ndarray:
    """Counts [500, 3, 19] with the given mIoU; images scatter, the same way for every network."""
    random = np.random.default_rng(5)
    agreed = 2 * iou / (1 + iou) * PIXELS * (1 + spread * random.standard_normal((IMAGES, CLASSES)))
    counts = np.full((IMAGES, 3, CLASSES), PIXELS)
    counts[:, 0] = np.clip(agreed.round(), 0, PIXELS)
    return counts


def write_table8(folder, facts, *, seeds: int = 3, **more):
    """segmentation.csv, counts per image and speed.csv with every printed number."""
    import pyarrow
    from pyarrow import parquet

    rows, speeds = [], []
    for fact in facts.table("table8"):
        speeds.append(speed_row(fact["model"], "deploy", fact["speed_examples_per_s"]))
        for seed in range(seeds):
            counts = counts_of(fact["mean_iou_pct"] / 100 + 0.0002 * (seed - (seeds - 1) / 2), 0.02)
            row = {
                **network(fact["model"], dataset="cityscapes"),
                "recipe": "cityscapes-40-epochs", "training_digest": "8888aaaa", "seed": str(seed),
                "weights_sha256": "0" * 64, "run_id": "evaluate", "form": "deploy", "protocol": "slide713-pillow",
                "backbone_sha256": "1" * 64, "input_px": 713, "n_images": IMAGES,
                "mean_iou_pct": float(mean_iou_pct(counts.sum(0))), "pixel_accuracy_pct": fact["mean_pixel_acc_pct"],
            }  # fmt: skip
            row |= {"mean_iou_low_pct": row["mean_iou_pct"] - 1, "mean_iou_high_pct": row["mean_iou_pct"] + 1} | more
            rows.append(row)
            name = predictions_name(model=row["model"], recipe=row["recipe"], digest=row["training_digest"],
                                    seed=row["seed"], form="deploy", protocol=row["protocol"])  # fmt: skip
            table = {"index": list(range(IMAGES)), "name": [str(i) for i in range(IMAGES)]}
            table |= {part: counts[:, place].tolist() for place, part in enumerate(("agreed", "answered", "labelled"))}
            (folder / "predictions").mkdir(exist_ok=True)
            parquet.write_table(pyarrow.table(table), folder / "predictions" / name)
    write_rows(folder / "segmentation.csv", "segmentation", rows)
    write_rows(folder / "speed.csv", "speed", speeds)
    return folder


def verdicts(folder, facts):
    return {row["id"]: row for row in claim_rows(facts, Results(folder))}


def test_the_printed_numbers_reproduce_the_claims(tmp_path, facts):
    found = verdicts(write_table8(tmp_path, facts), facts)
    for claim in ABOUT_MIOU:
        assert found[claim]["verdict_number"] == "met", found[claim]["reason"]
        assert found[claim]["dataset"] == "cityscapes"
        assert "new images" in found[claim]["reason"] and "new training seeds" in found[claim]["reason"]
        assert "segmentation.csv" in found[claim]["evidence"]
    # 1.71 points, with images that scatter alike for both networks, hold for new images and seeds.
    assert found["C48"]["verdict_inference"] == "reproduced"
    assert found["C48"]["low"] < 1.71 < found["C48"]["high"]
    others = {claim for claim, row in found.items() if row["verdict_number"] != "not tested"}
    assert not {claim for claim in others if "top1(" in found[claim]["condition"]}


@pytest.mark.parametrize(
    ("model", "value", "turned"),
    [
        ("PSPNet-ResNet-50", 78.0, {"C48"}),
        ("PSPNet-RepVGG-B2", 80.0, {"C51"}),
        ("PSPNet-RepVGG-B1g2_fast", 78.0, {"C48", "C50", "C51"}),
        ("PSPNet-ResNet-101", 79.5, {"C49", "C50"}),
    ],
)
def test_a_planted_miou_turns_exactly_its_claims(tmp_path, facts, model, value, turned):
    write_table8(tmp_path, facts)
    before = verdicts(tmp_path, facts)
    plant(tmp_path, "segmentation", {"mean_iou_pct": value}, model=model)
    after = verdicts(tmp_path, facts)
    different = {claim for claim in before if before[claim]["verdict_number"] != after[claim]["verdict_number"]}
    assert different == turned
    assert {after[claim]["verdict_number"] for claim in different} == {"not met"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dataset": "tiny-cityscapes"}, "tiny-cityscapes"),
        ({"backbone_sha256": "random"}, "backbone from random weights"),
        ({"n_images": 100}, "100 images"),
        ({"width": 0.25}, "width 0.25"),
        ({"input_px": 65}, "65 px"),
    ],
)
def test_other_images_networks_and_starts_decide_nothing(tmp_path, facts, change, reason):
    found = verdicts(write_table8(tmp_path, facts, seeds=1, **change), facts)
    for claim in ABOUT_MIOU:
        assert found[claim]["verdict_number"] == "not tested" and reason in found[claim]["reason"]
    row = rows_of(Evidence(facts, Results(tmp_path)), "table8")[0]
    assert row["ours_mean_iou_pct"] is None and row["small_mean_iou_pct"] is not None
    assert any(reason in note for note in row["note"])


def test_networks_of_two_recipes_are_not_compared(tmp_path, facts):
    write_table8(tmp_path, facts)
    plant(tmp_path, "segmentation", {"recipe": "cityscapes-80-epochs"}, model="PSPNet-ResNet-50")
    found = verdicts(tmp_path, facts)
    assert found["C48"]["verdict_number"] == "not tested" and "cityscapes-80-epochs" in found["C48"]["reason"]
    assert found["C49"]["verdict_number"] == "met"


def test_one_seed_says_nothing_about_new_trainings(tmp_path, facts):
    found = verdicts(write_table8(tmp_path, facts, seeds=1), facts)
    assert found["C48"]["verdict_number"] == "open" and found["C48"]["verdict_inference"] == "inconclusive"
    assert "1 of at least 3 seeds" in found["C48"]["reason"]


def test_missing_counts_leave_the_inference_open(tmp_path, facts):
    write_table8(tmp_path, facts)
    for path in (tmp_path / "predictions").glob("PSPNet-ResNet-50__*seed1*"):
        path.unlink()
    row = verdicts(tmp_path, facts)["C48"]
    assert row["verdict_number"] == "met" and row["verdict_inference"] == "inconclusive"
    assert "counts per image of PSPNet-ResNet-50 are missing" in row["reason"]


def test_counts_that_agree_on_every_image_give_no_interval(tmp_path, facts):
    row = Results(write_table8(tmp_path, facts)).rows("segmentation")[0]
    with pytest.raises(NotAvailable, match="the counts of no image differ, so resampling gives no interval"):
        over_images([1.0, -1.0], [[row], [row]])


def test_table_8_shows_ours_with_its_interval(tmp_path, facts):
    write_table8(tmp_path, facts)
    row = rows_of(Evidence(facts, Results(tmp_path)), "table8")[0]
    assert row["ours_mean_iou_pct"] == pytest.approx(78.88, abs=0.1)
    # Three seeds, 0.02 points apart: mean -+ t(0.975, 2) * 0.02 / sqrt(3).
    low, high = row["ours_mean_iou_low_pct"], row["ours_mean_iou_high_pct"]
    assert (low + high) / 2 == pytest.approx(row["ours_mean_iou_pct"], abs=1e-3)
    assert (high - low) / 2 == pytest.approx(4.3027 * 0.02 / 3**0.5, rel=0.05)
    assert (row["ours_mean_pixel_acc_pct"], row["ours_seeds"]) == (96.19, 3)
    assert not any(note.startswith("ours_mean_iou") for note in row["note"])
