"""What a plan says before anything is spent, and that its prediction holds."""

import json
import re

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from repvgg_companion.__main__ import main
from repvgg_companion.experiment.load import load_experiment, read_experiment
from repvgg_companion.experiment.paths import complexity_groups
from repvgg_companion.experiment.plan import Cost, cheaper, predict, read_claims
from repvgg_companion.training import cost as cost_module
from repvgg_companion.training import step_timing
from repvgg_companion.training.cost import NetworkShape, Probe, nominal_cost, parameter_count, parts_of


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
    # Terms with qualifiers count, too: C31 compares B3 and B3g4 under the 200-epoch recipe.
    assert {("RepVGG-B3", "200-epochs"), ("RepVGG-B3g4", "200-epochs"), ("RepVGG-B2g4", "120-epochs")} <= claims["C31"]
    assert claims["P03"] == {("RepVGG-A0", "120-epochs"), ("RepVGG-B1", "120-epochs")}
    assert "P01" not in claims, "it is about weights of others, whose recipe it does not name"


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
    assert re.search(r"highest of these rates: [1-9]\d*\.\d cores that decode, a third", said)
    assert main(["plan", experiment, "--images-per-s", "RepVGG-B1=1", "--devices", "8", "--device", "cpu"]) == 0
    assert "cores that decode" not in capsys.readouterr().out, "one core is always there"
    for option in ("--devices", "--train-images"):
        assert main(["plan", experiment, "--images-per-s", "RepVGG-B1=1200", option, "0"]) == 2
        assert f"{option} is 0; give 1 or more" in capsys.readouterr().err
    assert main(["plan", experiment, "--images-per-s", "RepVGG-B1=1200", "--train-images", "255"]) == 2
    assert "a batch of 256 is larger than the training set of 255 images; " in capsys.readouterr().err
    assert main(["plan", experiment, "--images-per-s", "RepVGG-B1"]) == 2
    assert "is not of the form MODEL=NUMBER" in capsys.readouterr().err
    assert main(["plan", str(root / "config/demo.yaml"), "--images-per-s", "RepVGG-B1=9"]) == 2
    assert "give --train-images" in capsys.readouterr().err


def test_a_plan_of_images_in_folders_needs_no_index(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for number in range(40):
        path = tmp_path / ("train" if number < 30 else "val") / f"{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    experiment = {
        "experiment": "mine",
        "data": {"dataset": "shapes", "train_folder": "train", "val_folder": "val"},
        "recipes": {"short": {"epochs": 1, "global_batch_size": 10, "batch_norm_batch_size": 10}},
        "training": [{"models": ["RepVGG-1.2.3.4.1-a0.75-b2"], "recipe": "short"}],
        "speed": {"models": ["RepVGG-1.2.3.4.1-a0.75-b2"], "num_classes": 2},
    }
    (tmp_path / "mine.yaml").write_text(json.dumps(experiment))
    assert main(["plan", "mine.yaml", "--images-per-s", "RepVGG-1.2.3.4.1-a0.75-b2=10", "--device", "cpu"]) == 0
    assert "1 training on 30 images" in capsys.readouterr().out
    chosen = experiment | {"data": experiment["data"] | {"classes": ["1"]}}
    (tmp_path / "chosen.yaml").write_text(json.dumps(chosen))
    assert main(["plan", "chosen.yaml", "--images-per-s", "RepVGG-1.2.3.4.1-a0.75-b2=10", "--device", "cpu"]) == 0
    assert "1 training on 15 images" in capsys.readouterr().out
    counted = complexity_groups(load_experiment(experiment, "mine.yaml"))
    assert [(group.models, group.num_classes) for group in counted[1:]] == [(("RepVGG-1.2.3.4.1-a0.75-b2",), 2)]
    unknown = {key: value for key, value in experiment.items() if key != "speed"}
    counted = complexity_groups(load_experiment(unknown, "mine.yaml"))
    assert [(group.num_classes, group.of_images) for group in counted] == [(None, False), (None, True)]
    thousand = experiment | {"data": experiment["data"] | {"num_classes": 1000}}
    thousand["training"] = [{"models": ["RepVGG-A0", "RepVGG-1.2.3.4.1-a0.75-b2"], "recipe": "short"}]
    counted = complexity_groups(load_experiment(thousand, "mine.yaml"))
    assert [(group.models, group.num_classes) for group in counted[1:]] == [(("RepVGG-1.2.3.4.1-a0.75-b2",), 1000)]


def test_a_plan_of_segmentation_counts_no_cache_of_whole_scenes(root, capsys):
    words = ["--images-per-s", "PSPNet-ResNet-50=9", "--train-images", "2975", "--val-images", "500", "--device", "cpu"]
    assert main(["plan", str(root / "config/cityscapes.yaml"), *words]) == 0
    said = capsys.readouterr().out
    assert "PSPNet-RepVGG-B2 " in said and "MB more" not in said


def test_the_parts_of_a_network_are_counted():
    network = NetworkShape("RepVGG-A0", 1.0, 1000, 224)
    parts = parts_of(network)
    assert parameter_count(network) == pytest.approx(9.11e6, rel=0.001)
    assert [(part.input_shape, part.count) for part in parts] == [
        *[((3, 224, 224), 1), ((48, 112, 112), 1), ((48, 56, 56), 1), ((48, 56, 56), 1), ((96, 28, 28), 3)],
        *[((96, 28, 28), 1), ((192, 14, 14), 13), ((192, 14, 14), 1), ((1280,), 1)],
    ]
    assert parts[2].module.stride == 1 and parts[3].module.stride == 2, "alike from outside, and still two parts"
    # Stochastic depth drops every block of EfficientNet with another probability, so all are distinct.
    assert sum(part.count for part in parts_of(NetworkShape("EfficientNet-B0", 1.0, 1000, 224))) == 16 + 2 * 3 + 3
    segmentation = [repr(part.module) for part in parts_of(NetworkShape("PSPNet-ResNet-50", 0.125, 19, 97))]
    assert sum(name.startswith("Bottleneck") for name in segmentation) >= 8, "the backbone is no part itself"
    assert sum(name.startswith("PyramidPooling") for name in segmentation) == 1
    assert sum(name.startswith("Dropout2d") for name in segmentation) == 2, "the auxiliary head is trained as well"


def test_the_nominal_cost_counts_arithmetic_and_moved_bytes():
    """RepVGG-D2se by hand: both convolutions of a block, and the map that its squeeze-and-excitation scales."""
    network = NetworkShape("RepVGG-D2se", 1.0, 1000, 320)
    on_cpu, on_gpu = (nominal_cost(network, on_cpu=where) for where in (True, False))
    moved = (on_gpu - on_cpu) / (100 - 20)
    operations = on_cpu - 20 * moved
    by_hand, channels, side, multiply_adds = 0, 3, 320, 2560 * 1000
    for width, blocks in zip((64, 160, 320, 640, 2560), (1, 8, 14, 24, 1), strict=True):
        for block in range(blocks):
            before, side = side, side if block else side // 2
            by_hand += 2 * 2 * (3 * channels * before**2 + 16 * width * side**2) + 2 * (3 + 16) * width * side**2
            multiply_adds += (9 + 1) * channels * width * side**2
            channels = width
    assert moved == pytest.approx(by_hand, rel=0.001)
    assert operations == pytest.approx(6 * multiply_adds, rel=0.01)


def test_a_step_is_the_sum_of_its_parts_times_what_one_model_takes_over_its_own(monkeypatch):
    probe = Probe(torch.device("cpu"), 2, "fp32")
    anchor, other = NetworkShape("RepVGG-A0", 0.125, 10, 32), NetworkShape("RepVGG-B0", 0.125, 10, 32)

    def time_parts(network):
        probe._parts[network] = dict.fromkeys(parts_of(network), 3.0)
        probe._updates[network] = 4.0

    def real_step_s(network):
        probe._steps[network] = 1.1 * (23 * 3 + 4)
        return probe._steps[network]

    monkeypatch.setattr(probe, "_time_parts", time_parts)
    monkeypatch.setattr(probe, "real_step_s", real_step_s)
    assert probe.anchor(anchor) == pytest.approx(1.1 * 73)
    assert probe.step_s(other) == pytest.approx(1.1 * (29 * 3 + 4))
    assert probe.step_s(other, 8) == pytest.approx(1.1 * (8 * 29 * 3 + 4)), "an update comes once in 8 micro-batches"


class Operations(TorchDispatchMode):
    """Counts the multiply-adds of convolutions and matrix products, forward and backward."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        formula = flop_registry.get(function.overloadpacket)
        if formula is not None:
            self.count += formula(*args, **(kwargs or {}), out_val=result)
        return result


def test_one_models_probe_predicts_the_steps_of_others(monkeypatch):
    """The clock counts operations instead of seconds, so predicted and real steps agree exactly on every machine.

    The shares of the layers differ from network to network, so a part that is left out, or counted too often, is no
    common factor that the anchor would hide. Seconds are compared in `benchmarks/plan.py`.
    """
    for module in (cost_module, step_timing):  # a count needs no second time
        monkeypatch.setattr(module, "WARM_UP", 0)
        monkeypatch.setattr(module, "REPEATS", 1)
    with Operations() as operations:
        probe = Probe(torch.device("cpu"), 2, "fp32", clock=lambda: float(operations.count))
        assert probe.anchor(NetworkShape("RepVGG-1.2.1.3.1-a1-b2-g2", 0.125, 10, 32)) > 0
        for model in ("RepVGG-1.1.2.4.1-a1.5-b2.5-g4", "RepVGG-A0", "ResNet-18"):
            network = NetworkShape(model, 0.125, 10, 32)
            assert probe.step_s(network) == pytest.approx(probe.real_step_s(network), rel=1e-12), model
