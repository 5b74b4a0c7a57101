"""Structural facts that the paper states, read from the operator graph of the built networks."""

import pytest
import torch
from torch import nn

from repvgg_companion.complexity.structure import (
    block_feature_maps,
    body_operators,
    convolutions_per_block,
    layers_at,
    live_feature_maps,
    operators,
)
from repvgg_companion.models.names import REPVGG_MODELS


@pytest.mark.parametrize("name", [name for name in REPVGG_MODELS if not name.endswith("se")])
def test_the_body_of_a_converted_repvgg_is_3x3_and_relu_in_a_line(name):
    steps = body_operators(name)
    assert [step.kind for step in steps] == ["conv3x3", "relu"] * (len(steps) // 2)
    assert [step.inputs for step in steps] == [("images",), *((step.name,) for step in steps[:-1])]


def test_the_train_form_has_branches():
    kinds = [step.kind for step in body_operators("RepVGG-B0", form="train")]
    # 28 layers: 28 3x3, 28 1x1, 23 identities; every branch has its batch norm.
    counts = {kind: kinds.count(kind) for kind in set(kinds)}
    assert counts == {"conv3x3": 28, "conv1x1": 28, "batch-norm": 79, "add": 51, "relu": 28}


def test_operators_per_block():
    assert set(convolutions_per_block("RepVGG-B3")) == {1} and len(convolutions_per_block("RepVGG-B3")) == 28
    assert convolutions_per_block("ResNet-18") == [2] * 8
    assert convolutions_per_block("ResNet-50") == [3] * 16
    assert convolutions_per_block("RepVGG-B0_residual-reorg") == [2] * 13


def test_resnet_101_spends_69_layers_at_14_px():
    assert len(layers_at("ResNet-101", 14)) == 69
    assert len(layers_at("RepVGG-B0", 14)) == 16


def test_figure_3():
    assert [value for _, value in block_feature_maps("residual")] == [1, 2, 2, 1]
    assert [value for _, value in block_feature_maps("plain")] == [1, 1, 1, 1]


def test_liveness_of_a_graph_drawn_by_hand():
    class Diamond(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 1)

        def forward(self, images):
            stem = self.stem(images)
            left = self.left(stem)
            return left + self.right(stem)

    steps = operators(Diamond(), 2)
    assert [step.kind for step in steps] == ["conv1x1", "conv1x1", "conv1x1", "add"]
    # stem 4*4; stem and left; left and right (stem is read no more); the sum.
    assert [value for _, value in live_feature_maps(steps)] == [16, 48, 64, 32]


def test_the_graph_is_read_from_a_copy():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).train()
    before = module[0].weight.clone()
    assert [step.kind for step in operators(module, 8)] == ["conv3x3", "relu"]
    assert module.training and torch.equal(module[0].weight, before)
