"""Exported graphs: checked, and refused where they are not the network."""

import pytest
import torch

from repvgg_companion.errors import CompanionError
from repvgg_companion.identity import WeightsIdentity
from repvgg_companion.speed import export
from repvgg_companion.speed.networks import ModelForm
from repvgg_companion.weights_file import save_weights


@pytest.fixture(scope="module")
def deploy_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    module = ModelForm("RepVGG-A0", "deploy", 0.25, 10).build(seed=3)
    for form in ("deploy", "train"):
        identity = WeightsIdentity("digits", "0" * 64, "RepVGG-A0", 0.25, 10, "r", "12345678", "0", 32, form=form)
        save_weights(folder / f"{form}.safetensors", module.state_dict(), identity)
    return folder / "deploy.safetensors"


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_exported_graph_is_the_network(deploy_file, tmp_path, suffix):
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime")
    check = export.export(deploy_file, tmp_path / f"model{suffix}", n_inputs=3)
    assert check.passed
    assert check.float64_max_relative_error <= 1e-10
    assert check.weights_match
    assert (tmp_path / f"model{suffix}").stat().st_size > 100_000


def test_a_changed_weight_in_the_exported_graph_is_noticed(deploy_file):
    module = ModelForm("RepVGG-A0", "deploy", 0.25, 10).build(seed=3)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        program = torch.export.export(module, (images[:1],))
        assert export.check_program(module, program, images).passed
        module.stage1[0].rbr_reparam.weight = torch.nn.Parameter(module.stage1[0].rbr_reparam.weight + 1e-3)
        assert not export.check_program(module, program, images).passed


def test_a_failed_check_leaves_no_file(deploy_file, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "FLOAT32_LIMIT", -1.0)
    with pytest.raises(CompanionError, match="not the network"):
        export.export(deploy_file, tmp_path / "model.pt2", n_inputs=2)
    assert list(tmp_path.iterdir()) == []


def test_wrong_inputs_are_refused(deploy_file, tmp_path):
    with pytest.raises(CompanionError, match="suffix"):
        export.export(deploy_file, tmp_path / "model.bin")
    with pytest.raises(CompanionError, match="train form"):
        export.export(deploy_file.with_name("train.safetensors"), tmp_path / "model.pt2")
