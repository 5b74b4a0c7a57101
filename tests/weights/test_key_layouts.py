"""Other people's files: every layout and form of every variant, bit for bit, with timm as the oracle of its layout."""

import pytest
import torch
from timm_oracle import timm_network

from repvgg_companion.models.build import build_model
from repvgg_companion.models.names import REPVGG_MODELS
from repvgg_companion.weights.key_layouts import LAYOUTS, detect_form, detect_layout, from_official, to_official


def numbered(module):
    """A state dict of meta shapes with a different value in every tensor, one element each where memory matters."""
    return {key: torch.full((1,), float(number)) for number, key in enumerate(module.state_dict())}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", ["train", "deploy"])
@pytest.mark.parametrize("name", REPVGG_MODELS)
def test_there_and_back(name, form, layout):
    with torch.device("meta"):
        module = build_model(name, form=form)
    state = numbered(module)
    other = from_official(state, layout)
    assert len(other) == len(state) and detect_layout(other) == layout
    back, unknown = to_official(other, layout)
    assert not unknown and detect_form(back) == form
    assert {key: tensor.item() for key, tensor in back.items()} == {key: t.item() for key, t in state.items()}


@pytest.mark.parametrize("name", REPVGG_MODELS)
def test_timm_keys_are_those_of_the_installed_timm_in_both_forms(name):
    for form, inference in (("train", False), ("deploy", True)):
        with torch.device("meta"):
            ours = build_model(name, form=form)
            theirs = timm_network(name)
        if inference:
            with torch.device("cpu"):
                from timm.utils import reparameterize_model

                theirs = reparameterize_model(timm_network(name, width=0.25), inplace=True)
        assert set(from_official(ours.state_dict(), "timm")) == set(theirs.state_dict())


def test_mmpretrain_and_official_keys_as_published():
    """Keys written down from `mmpretrain/models/backbones/repvgg.py` and `repvgg.py` of the authors."""
    pairs = {
        "stage0.rbr_dense.conv.weight": "backbone.stem.branch_3x3.conv.weight",
        "stage0.rbr_1x1.bn.running_var": "backbone.stem.branch_1x1.norm.running_var",
        "stage3.15.rbr_identity.bias": "backbone.stage_3.15.branch_norm.bias",
        "stage4.0.rbr_reparam.bias": "backbone.stage_4.0.branch_reparam.bias",
        "stage2.1.se.down.weight": "backbone.stage_2.1.se_layer.conv1.conv.weight",
        "stage2.1.se.up.bias": "backbone.stage_2.1.se_layer.conv2.conv.bias",
        "linear.weight": "head.fc.weight",
    }
    state = {key: torch.tensor(float(number)) for number, key in enumerate(pairs)}
    assert list(from_official(state, "mmpretrain")) == list(pairs.values())
    timm_keys = list(from_official(state, "timm"))
    assert timm_keys[2:5] == ["stages.2.15.identity.bias", "stages.3.0.reparam_conv.bias", "stages.1.1.attn.fc1.weight"]


def test_the_order_of_keys_means_nothing():
    with torch.device("meta"):
        module = build_model("RepVGG-D2se")
    state = numbered(module)
    shuffled = dict(reversed(list(from_official(state, "timm").items())))
    back, _ = to_official(shuffled, "timm")
    assert {key: tensor.item() for key, tensor in back.items()} == {key: t.item() for key, t in state.items()}


def test_keys_of_other_networks_are_unknown():
    keys = ["conv1.weight", "layer1.0.conv1.weight", "stage5.0.rbr_dense.conv.weight", "features.0.weight"]
    assert detect_layout(keys) is None
    assert to_official({"stages.4.0.conv_kxk.conv.weight": torch.zeros(1)}, "timm")[1]
