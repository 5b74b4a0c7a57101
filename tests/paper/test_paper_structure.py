"""Structural checks: what they find on the paper's networks, and that they find faults."""

import pytest
import torch
from scipy.signal import correlate2d
from torch import nn

from repvgg_companion.models.build import build_model
from repvgg_companion.paper import structure


@pytest.mark.parametrize("name", ["RepVGG-A0", "RepVGG-B1g4", "RepVGG-B3"])
def test_a_deploy_form_is_a_line_of_3x3_convolutions(name):
    assert structure.body_faults(name) == []


@pytest.mark.parametrize("fault", ["5x5", "shortcut"])
def test_a_fault_in_the_body_is_found(monkeypatch, fault):
    with torch.device("meta"):
        module = build_model("RepVGG-A0", form="deploy")
    if fault == "5x5":
        module.stage2[1].rbr_reparam = nn.Conv2d(96, 96, 5, padding=2, device="meta")
    else:
        block = module.stage2[1]
        inner = block.forward
        block.forward = lambda images: inner(images) + images
    monkeypatch.setattr(structure, "paper_network", lambda name, form: module)
    assert structure.body_faults.__wrapped__("RepVGG-A0")


def test_the_train_form_is_no_line(monkeypatch):
    with torch.device("meta"):
        module = build_model("RepVGG-A0", form="train")
    monkeypatch.setattr(structure, "paper_network", lambda name, form: module)
    assert structure.body_faults.__wrapped__("RepVGG-A0")


def test_members_of_the_implicit_ensemble():
    assert structure.ensemble_members("RepVGG-B0", 4) == 2 * 3**15
    assert structure.ensemble_members("RepVGG-B0_residual-reorg", 4) == 2**8
    assert structure.ensemble_members("RepVGG-B0_plain", 4) == 1
    assert structure.ensemble_members("RepVGG-B0_1x1-only", 4) == 2**16


def test_layers_of_resnet_101():
    assert structure.main_path_layers("ResNet-101", 14) == 69
    assert structure.main_path_layers("ResNet-50", 14) == 18


def test_operators_of_a_block():
    assert structure.operators_per_block("RepVGG-A0") == {1}
    assert structure.operators_per_block("ResNet-18") == {2}
    assert structure.operators_per_block("ResNet-50") == {3}


def test_live_feature_maps():
    assert max(structure.live_feature_maps("residual")) == 2
    assert structure.live_feature_maps("residual")[-1] == 1
    assert set(structure.live_feature_maps("plain")) == {1}


def test_winograd_counts_what_it_multiplies():
    assert structure.winograd_multiplications() == (16, 36)


def test_the_direct_tile_is_a_correlation():
    """The oracle that both sides of `winograd_multiplications` are held against has the shape of a 2x2 output."""
    import numpy as np

    generator = np.random.default_rng(0)
    tile, kernel = generator.integers(-9, 10, (4, 4)), generator.integers(-9, 10, (3, 3))
    windows = np.lib.stride_tricks.sliding_window_view(tile, (3, 3))
    assert np.array_equal((windows * kernel).sum(axis=(2, 3)), correlate2d(tile, kernel, mode="valid"))


def test_efficientnet_has_no_dense_stride_1_layer_but_vgg_has_thirteen():
    assert structure.dense_winograd_layers("EfficientNet-B0") == 0
    assert structure.dense_winograd_layers("VGG-16") == 13


def test_the_last_stage():
    share = structure.last_stage("RepVGG-B3")
    assert share.layers == 1
    # 768 x 2560 x 9 multiply-adds at 7x7, of 26.2 B.
    assert share.flops_share == pytest.approx(768 * 2560 * 9 * 49 / 26.2089e9, rel=1e-4)


def test_conversion_keeps_the_function():
    errors = structure.conversion_errors("RepVGG-A0")
    assert errors.float64_max_relative < 1e-12
    assert errors.float32_max_relative < 1e-5
    assert errors.same_top1
