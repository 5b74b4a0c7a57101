"""The verb `reparameterize`: what it writes, and that it rejects every planted fault by its exit status."""

import pytest
import torch
from digits import PROTOCOL, write_digit_folder, write_train_file

from repvgg_companion import __main__ as cli
from repvgg_companion.contract import read_rows
from repvgg_companion.files import sha256_of_file
from repvgg_companion.models import blocks, fold
from repvgg_companion.models.build import build_model
from repvgg_companion.models.names import MODELS
from repvgg_companion.reparameterization import agreement
from repvgg_companion.reparameterization import convert as convert_module
from repvgg_companion.weights_file import load_weights, save_weights

# Deeper and wider members of the same families run in test-all.
LONG = ("ResNet-34", "ResNet-101", "ResNet-152", "ResNeXt-50", "ResNeXt-101", "RegNetX-12GF", "EfficientNet-B3")
CONVERTIBLE = [name for name, spec in MODELS.items() if spec.convertible and spec.family != "PSPNet"]


@pytest.fixture(scope="session")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    write_digit_folder(folder / "images")
    done = cli.main(["index", "--dataset", "digits", "--output", str(folder / "index"), "--train-folder",
                     str(folder / "images/train"), "--val-folder", str(folder / "images/val")])  # fmt: skip
    assert done == 0
    return folder / "index" / "val.parquet"


@pytest.fixture
def certify(manifest, tmp_path):
    """Runs the verb on train files; returns its exit status and its rows."""

    def run(*paths, images=20):
        output = tmp_path / "rows.csv"
        status = cli.main([
            "reparameterize", "--experiment", "test", "--weights", *map(str, paths), "--val-manifest", str(manifest),
            "--protocol", PROTOCOL, "--output", str(output), "--runs", str(tmp_path / "runs"), "--images", str(images),
            "--device", "cpu",
        ])  # fmt: skip
        return status, read_rows(output, "reparameterization") if output.exists() else []

    return run


@pytest.fixture
def small(tmp_path):
    """Writes a train file of the named network in a folder of its own."""
    return lambda model="RepVGG-B1g4": write_train_file(tmp_path / model / "train.safetensors", model)


@pytest.mark.parametrize(
    "names",
    [[name for name in CONVERTIBLE if name not in LONG], pytest.param(LONG, marks=pytest.mark.slow)],
    ids=["most", "long"],
)
def test_every_convertible_network_is_certified_in_one_process(certify, tmp_path, names):
    paths = [write_train_file(tmp_path / name / "train.safetensors", name, width=0.125) for name in names]
    status, rows = certify(*paths, images=10)
    assert status == 0 and sorted(row["model"] for row in rows) == sorted(names)
    for row in rows:
        path = tmp_path / row["model"] / "deploy.safetensors"
        assert row["passed"] and row["file_matches_conversion"] and row["n_inputs"] == 10
        assert 0 <= row["float64_max_relative_error"] <= 1e-10
        assert row["float32_max_relative_error"] < 1e-2
        assert row["deploy_sha256"] == sha256_of_file(path)
        assert row["train_sha256"] == row["weights_sha256"] == sha256_of_file(path.with_name("train.safetensors"))
        with torch.device("meta"):
            deploy = build_model(row["model"], num_classes=10, width=0.125, form="deploy")
            train = build_model(row["model"], num_classes=10, width=0.125)
        assert row["deploy_params"] == sum(p.numel() for p in deploy.parameters())
        assert row["train_params"] == sum(p.numel() for p in train.parameters())


def test_the_deploy_file_holds_the_function_of_the_train_file(certify, small):
    path = small("RepVGG-D2se")
    before = path.read_bytes()
    assert certify(path)[0] == 0
    state, identity = load_weights(path.with_name("deploy.safetensors"))
    train_state, train_identity = load_weights(path)
    assert identity.form == "deploy" and identity.model == train_identity.model
    images = torch.randn(2, 3, 32, 32)
    train = build_model("RepVGG-D2se", num_classes=10, width=0.25).eval()
    deploy = build_model("RepVGG-D2se", num_classes=10, width=0.25, form="deploy").eval()
    train.load_state_dict(train_state, strict=True)
    deploy.load_state_dict(state, strict=True)
    with torch.inference_mode():
        torch.testing.assert_close(deploy(images), train(images), rtol=1e-3, atol=1e-4)
    assert path.read_bytes() == before
    first = path.with_name("deploy.safetensors").read_bytes()
    assert certify(path)[0] == 0  # a deploy file that is right already stays, and is certified again
    assert path.with_name("deploy.safetensors").read_bytes() == first


# The five faults, planted in the converter or in the check itself.
def _plant_train_mode(monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "eval", torch.nn.Module.train)


def _plant_wrong_epsilon(monkeypatch):
    right = fold.norm_scale_and_shift
    monkeypatch.setattr(convert_module, "norm_scale_and_shift", lambda norm, epsilon: right(norm, 1e-3))


def _plant_wrong_epsilon_by_a_little(monkeypatch):
    right = fold.norm_scale_and_shift
    monkeypatch.setattr(convert_module, "norm_scale_and_shift", lambda norm, epsilon: right(norm, 0.0))


def _plant_identity_without_modulo(monkeypatch):
    def without_modulo(taps, part, value):
        channels = torch.arange(part.start, part.stop)
        inside = channels < taps.shape[1]
        value = torch.as_tensor(value).expand(len(channels))
        taps[channels[inside] - part.start, channels[inside], 1, 1] += value[inside]

    monkeypatch.setattr(convert_module, "_add_identity", without_modulo)


def _plant_se_dropped(monkeypatch):
    right = convert_module.convert

    def dropped(module, state=None, **options):
        converted = right(module, state, **options)
        return {key: tensor for key, tensor in converted.items() if ".se." not in key}

    monkeypatch.setattr(convert_module, "convert", dropped)


def _plant_se_left_unused(monkeypatch):
    right = blocks.RepVGGBlock.forward

    def forward(self, images):
        return torch.relu(self.rbr_reparam(images)) if self.deploy else right(self, images)

    monkeypatch.setattr(blocks.RepVGGBlock, "forward", forward)


def _plant_norms_exchanged(monkeypatch):
    right = convert_module.fuse_block

    def exchanged(block, state, **options):
        names = {"rbr_dense.bn": "rbr_1x1.bn", "rbr_1x1.bn": "rbr_dense.bn"}
        swapped = {}
        for key, tensor in state.items():
            front, _, leaf = key.rpartition(".")
            swapped[f"{names.get(front, front)}.{leaf}"] = tensor
        return right(block, swapped, **options)

    monkeypatch.setattr(convert_module, "fuse_block", exchanged)


CONVERTER_FAULTS = [
    ("RepVGG-A0", _plant_train_mode),
    ("RepVGG-A0", _plant_wrong_epsilon),
    ("RepVGG-A0", _plant_wrong_epsilon_by_a_little),
    ("RepVGG-B1g4", _plant_identity_without_modulo),
    ("RepVGG-D2se", _plant_se_dropped),
    ("RepVGG-D2se", _plant_se_left_unused),
    ("RepVGG-A0", _plant_norms_exchanged),
]


@pytest.mark.parametrize(("model", "plant"), CONVERTER_FAULTS, ids=lambda value: getattr(value, "__name__", value))
def test_a_fault_in_the_converter_is_rejected_and_leaves_no_deploy_file(certify, small, monkeypatch, model, plant):
    path = small(model)
    plant(monkeypatch)
    status, rows = certify(path)
    assert status == 2
    assert not path.with_name("deploy.safetensors").exists()
    assert all(not row["passed"] for row in rows)


# The same five faults, each in a deploy file that lies beside a copied checkpoint already, or in the checkpoint itself.
def _faulty_fusion(monkeypatch, plant, train_path):
    state, identity = load_weights(train_path)
    with monkeypatch.context() as patch:
        plant(patch)
        return convert_module.convert_model(
            identity.model, state, num_classes=identity.num_classes, width=identity.width, dtype=torch.float32
        ), identity


def _converted_with_batch_statistics(monkeypatch, train_path):
    """What a conversion of a network left in train mode gives: its running statistics moved by a batch of noise."""
    state, identity = load_weights(train_path)
    model = build_model(identity.model, num_classes=identity.num_classes, width=identity.width).train()
    model.load_state_dict(state)
    model(torch.randn(4, 3, 32, 32))
    return convert_module.convert(model, dtype=torch.float32), identity


@pytest.mark.parametrize(
    ("model", "plant"),
    [("RepVGG-A0", None), ("RepVGG-A0", _plant_wrong_epsilon), ("RepVGG-B1g4", _plant_identity_without_modulo),
     ("RepVGG-D2se", _plant_se_dropped), ("RepVGG-A0", _plant_norms_exchanged)],
    ids=["train-mode", "epsilon", "modulo", "se-dropped", "norms-exchanged"],
)  # fmt: skip
def test_a_faulty_deploy_file_is_rejected_and_kept(certify, small, monkeypatch, capsys, model, plant):
    from dataclasses import replace

    path = small(model)
    if plant is None:
        state, identity = _converted_with_batch_statistics(monkeypatch, path)
    else:
        state, identity = _faulty_fusion(monkeypatch, plant, path)
    deploy = path.with_name("deploy.safetensors")
    save_weights(deploy, state, replace(identity, form="deploy"))
    planted = deploy.read_bytes()
    status, rows = certify(path)
    message = capsys.readouterr().err
    assert status == 2 and str(deploy) in message and "is kept" in message and "remove" not in message
    assert [(row["passed"], row["file_matches_conversion"]) for row in rows] == [(False, False)]
    assert deploy.read_bytes() == planted


def test_exchanged_batch_norms_in_a_copied_checkpoint_are_rejected(certify, small):
    path = small("RepVGG-A0")
    assert certify(path)[0] == 0
    state, identity = load_weights(path)
    for leaf in ("weight", "bias", "running_mean", "running_var"):
        dense, pointwise = f"stage1.0.rbr_dense.bn.{leaf}", f"stage1.0.rbr_1x1.bn.{leaf}"
        state[dense], state[pointwise] = state[pointwise], state[dense]
    save_weights(path, state, identity)
    assert certify(path)[0] == 2


def test_one_flipped_bit_of_the_deploy_file_is_found(certify, small):
    path = small("RepVGG-A0")
    assert certify(path)[0] == 0
    deploy = path.with_name("deploy.safetensors")
    content = bytearray(deploy.read_bytes())
    content[-5] ^= 1
    deploy.write_bytes(content)
    assert certify(path)[0] == 2


def test_a_negative_zero_is_not_zero():
    zero = {"a": torch.zeros(3)}
    assert agreement.same_bits(zero, {"a": torch.zeros(3)}) == []
    assert agreement.same_bits(zero, {"a": -torch.zeros(3)}) == ["a"]
    assert agreement.same_bits(zero, {"a": torch.zeros(3, dtype=torch.float64)}) == ["a"]
    assert agreement.same_bits(zero, {"b": torch.zeros(3)}) == ["a", "b"]
    nan = {"a": torch.full((1,), float("nan"))}
    assert agreement.same_bits(nan, nan) == []


def test_logits_that_are_not_finite_fail_the_algebra_check(certify, small):
    path = small("RepVGG-A0")
    state, identity = load_weights(path)
    state["linear.weight"][0] = float("inf")
    save_weights(path, state, identity)
    status, rows = certify(path)
    assert status == 2 and not rows[0]["passed"] and not path.with_name("deploy.safetensors").exists()


def test_negative_variances_and_pytorch_files_are_refused_before_anything_is_written(certify, small, capsys):
    path = small("RepVGG-A0")
    state, identity = load_weights(path)
    state["stage0.rbr_dense.bn.running_var"][0] = -1.0
    save_weights(path, state, identity)
    assert certify(path) == (2, [])
    assert "stage0.rbr_dense.bn.running_var has negative variances" in capsys.readouterr().err
    torch.save(state, path)
    before = path.read_bytes()
    assert certify(path) == (2, [])
    message = capsys.readouterr().err
    assert f"weights convert {path}" in message and "remove" not in message
    assert path.read_bytes() == before and not path.with_name("deploy.safetensors").exists()


def test_a_network_without_deploy_form_says_why(certify, small, capsys):
    assert certify(small("RepVGG-B0_relu-in-branch"))[0] == 2
    assert "not linear" in capsys.readouterr().err


def test_a_checkpoint_with_a_missing_tensor_is_named(certify, small, capsys):
    path = small("RepVGG-A0")
    state, identity = load_weights(path)
    del state["stage1.1.rbr_identity.weight"]
    save_weights(path, state, identity)
    assert certify(path)[0] == 2
    assert "stage1.1.rbr_identity.weight" in capsys.readouterr().err


def test_a_deploy_file_is_no_train_file(certify, small, capsys):
    path = small("RepVGG-A0")
    assert certify(path)[0] == 0
    assert certify(path.with_name("deploy.safetensors"))[0] == 2
    assert "train file" in capsys.readouterr().err
