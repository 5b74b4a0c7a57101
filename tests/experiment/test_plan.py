"""What a plan says before anything is spent, and that its prediction holds."""

import time

import pytest
import torch

from repvgg_companion.__main__ import main
from repvgg_companion.experiment.load import read_experiment
from repvgg_companion.experiment.plan import Cost, cheaper, predict, read_claims
from repvgg_companion.training import cost as cost_module
from repvgg_companion.training.cost import EXCITATION, LINEAR, Network, Probe, shapes_of


def cost(model, seconds, recipe="120-epochs"):
    return Cost(model, recipe, "0", 120, 1.0, seconds, 1, 0, 0)


def test_device_hours_follow_from_images_epochs_and_speed(root):
    """RepVGG-A0 at 1000 images/s: 120 epochs of the images in whole batches, and validation at a third of the cost."""
    experiment = read_experiment(root / "config/imagenet.yaml")
    costs = predict(experiment, (1_281_167, 50_000), lambda model, width, recipe: (0.001, 0.001 / 3))
    (a0,) = [item for item in costs if item.model == "RepVGG-A0"]
    assert a0.device_s == pytest.approx(120 * (1_281_167 // 256 * 256 * 0.001 + 50_000 * 0.001 / 3))
    assert a0.disk_bytes == pytest.approx(3 * 4 * 9.1e6, rel=0.02), "timm counts 9.11 M parameters in train form"
    (b3,) = [item for item in costs if item.model == "RepVGG-B3"]
    assert b3.epochs == 200 and b3.device_s == pytest.approx(a0.device_s * 200 / 120)


def test_the_cheapest_claims_come_first_and_shared_trainings_are_paid_once():
    claims = {
        "C1": frozenset({("a", "120-epochs"), ("b", "120-epochs")}),
        "C2": frozenset({("b", "120-epochs")}),
        "C3": frozenset({("a", "120-epochs"), ("c", "120-epochs")}),
        "C4": frozenset({("a", "200-epochs")}),
    }
    lines = cheaper([cost("a", 7200), cost("b", 3600), cost("c", 36000)], claims)[1:]
    assert [line.split()[0] for line in lines] == ["1", "3", "13"]
    assert [line.split()[2] for line in lines] == ["C2", "C1", "C3"]
    assert [line.split("+ ")[1] for line in lines] == ["b", "a", "c"]


def test_the_claims_of_the_paper_name_known_trainings(root):
    experiment = read_experiment(root / "config/imagenet.yaml")
    trained = {(item.model, item.recipe) for item in predict(experiment, (1, 1), lambda *_: (1.0, 1.0))}
    claims = read_claims()
    assert len(claims) > 20 and claims["C20"] == {("RepVGG-A0", "120-epochs"), ("ResNet-18", "120-epochs")}
    assert sum(needed <= trained for needed in claims.values()) > 20


def test_the_verb_works_from_a_given_speed(root, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment = str(root / "config/imagenet.yaml")
    assert main(["plan", experiment, "--images-per-s", "RepVGG-B1=1200", "--devices", "8", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "RepVGG-B1 " in said and "    1200.0 " in said and "device-hours, at least" in said and "C35" in said
    # 50 000 images at 224 px, and once more at 300 px for EfficientNet-B3.
    assert f"{3 * (224**2 + 300**2) * 50_000 / 1e6:.0f} MB more" in said
    rates = {line.split()[0]: float(line.split()[4]) for line in said.splitlines() if " 120-epochs " in line}
    # Multiply-adds alone would make EfficientNet-B0 10 times as fast as ResNet-50; thin layers move more than that.
    assert 2 * rates["ResNet-101"] > rates["ResNet-50"] > rates["RepVGG-B1"]
    assert rates["EfficientNet-B0"] < 6 * rates["ResNet-50"]
    for option in ("--devices", "--train-images"):
        assert main(["plan", experiment, "--images-per-s", "RepVGG-B1=1200", option, "0"]) == 2
        assert f"{option} is 0; give 1 or more" in capsys.readouterr().err
    assert main(["plan", experiment, "--images-per-s", "RepVGG-B1"]) == 2
    assert "is not of the form MODEL=NUMBER" in capsys.readouterr().err
    assert main(["plan", str(root / "config/demo.yaml"), "--images-per-s", "RepVGG-B1=9"]) == 2
    assert "give --train-images" in capsys.readouterr().err


def test_the_layers_of_a_network_are_counted():
    counts, parameters = shapes_of(Network("RepVGG-A0", 1.0, 1000, 224))
    assert sum(counts.values()) == 22 * 2 + 1 and parameters == pytest.approx(9.11e6, rel=0.001)
    assert counts[(192, 192, 3, 1, 1, 14)] == 13 and counts[(1280, 1000, LINEAR, 1, 1, 1)] == 1
    counts, _ = shapes_of(Network("RepVGG-D2se", 1.0, 1000, 320))
    excitations = {shape: count for shape, count in counts.items() if shape[2] == EXCITATION}
    assert sum(excitations.values()) == 1 + 8 + 14 + 24 + 1 and (2560, 2560, EXCITATION, 1, 1, 10) in excitations
    assert not any(shape[2] == 1 and shape[5] == 1 for shape in counts), "their inner layers are not counted again"


@pytest.mark.slow
def test_one_models_probe_predicts_the_steps_of_others_within_15_percent(monkeypatch):
    """In CPU seconds of one thread, which other processes disturb less than seconds of the clock."""
    monkeypatch.setattr(cost_module, "time", CpuClock)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        probe = Probe(torch.device("cpu"), 32, "fp32")
        probe.anchor(Network("RepVGG-B1g2", 0.25, 10, 32))
        networks = {
            model: Network(model, 0.25, 10, 32)
            for model in ("RepVGG-A0", "RepVGG-B0", "RepVGG-B1g4", "RepVGG-B3", "RepVGG-D2se")
        }
        for network in networks.values():
            probe.step_s(network), probe.real_step_s(network)
        # All of it again, in turn: the least time of each is kept, so every further round takes disturbances away and
        # brings nothing else. A machine at rest needs two.
        for _ in range(6):
            probe.refine()
            ratios = {model: probe.step_s(one) / probe.real_step_s(one) for model, one in networks.items()}
            if all(0.87 <= ratio <= 1.13 for ratio in ratios.values()):
                break
    finally:
        torch.set_num_threads(threads)
    assert all(0.85 <= ratio <= 1.15 for ratio in ratios.values()), ratios


class CpuClock:
    perf_counter = staticmethod(time.process_time)
