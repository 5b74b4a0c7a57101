"""Exported graphs: checked, and refused where they are not the network."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from repvgg_companion.errors import CompanionError
from repvgg_companion.files import sha256_of_file, write_json
from repvgg_companion.identity import WeightsIdentity
from repvgg_companion.speed import export
from repvgg_companion.speed.networks import ModelForm
from repvgg_companion.weights_file import load_weights, save_weights


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


def test_an_onnx_file_takes_any_batch_and_size_and_says_what_it_is(deploy_file, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    weights = tmp_path / "deploy.safetensors"
    shutil.copy(deploy_file, weights)
    prepared = {"protocol": "crop32-bilinear-pillow", "mean": [0.5, 0.5, 0.5]}
    facts = {"files": {"deploy": {"sha256": sha256_of_file(weights)}}, "classes": ["nought", "one"],
             "preprocessing": prepared}  # fmt: skip
    write_json(tmp_path / "config.json", facts)
    assert export.export(weights, tmp_path / "model.onnx", n_inputs=2).passed
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    module = ModelForm("RepVGG-A0", "deploy", 0.25, 10).build(seed=3).eval()
    assert [(node.name, node.shape) for node in session.get_inputs()] == [("images", ["batch", 3, "height", "width"])]
    for shape in ((1, 3, 32, 32), (5, 3, 96, 64), (2, 3, 33, 47)):
        images = torch.randn(shape, generator=torch.Generator().manual_seed(shape[0]))
        with torch.inference_mode():
            expected = module(images)
        found = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max())), shape
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["class_names"]) == ["nought", "one"] and json.loads(said["preprocessing"]) == prepared
    assert (said["model"], said["training_digest"]) == ("RepVGG-A0", "12345678")
    assert said["weights_sha256"] == sha256_of_file(weights)


def test_without_a_config_the_metadata_say_what_is_known(deploy_file):
    _, identity = load_weights(deploy_file)
    said = export.onnx_metadata(deploy_file, identity)
    assert json.loads(said["preprocessing"])["crop_px"] == 32 and "class_names" not in said
    said = export.onnx_metadata(deploy_file, replace(identity, dataset="imagenet", num_classes=1000))
    assert json.loads(said["class_names"])[0] == "tench"


def test_a_config_of_other_weights_is_refused(deploy_file, tmp_path):
    shutil.copy(deploy_file, tmp_path / "deploy.safetensors")
    write_json(tmp_path / "config.json", {"files": {"deploy": {"sha256": "0" * 64}}})
    with pytest.raises(CompanionError, match="is about other weights"):
        export.export(tmp_path / "deploy.safetensors", tmp_path / "model.onnx", n_inputs=2)
    assert not (tmp_path / "model.onnx").exists()


def test_a_wrong_batch_of_another_size_is_noticed(deploy_file, tmp_path):
    """As of a graph that is right at the exported size only."""
    pytest.importorskip("onnxruntime")
    module = ModelForm("RepVGG-A0", "deploy", 0.25, 10).build(seed=3).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        outputs = module(images)
        wrong = export._Exported("onnx", True, outputs, outputs.double(), (torch.randn(2, 3, 48, 32), outputs))
        assert not export._check(module, images, wrong).passed
