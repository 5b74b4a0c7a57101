"""Names, structure and the block grammar, against the paper's tables and plain arithmetic."""

import csv
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from repvgg_companion.errors import CompanionError
from repvgg_companion.models.blocks import BLOCKS, DiracConv, IdentityPlusConv, RepVGGBlock, identity_kernel
from repvgg_companion.models.build import build_model
from repvgg_companion.models.fold import fold_batch_norms
from repvgg_companion.models.names import (
    MODELS,
    REPVGG_MODELS,
    require_convertible,
    require_model,
    scaled_width,
    stage_widths,
)
from repvgg_companion.models.pspnet import dilations_per_layer


def test_widths_and_groupwise_layers_are_those_of_table_3(root):
    with (root / "paper" / "table3_variants.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) >= 7
    for row in rows:
        spec = require_model(row["model"])
        assert list(spec.layers) == [int(row[f"layers_stage{stage}"]) for stage in range(1, 6)]
        assert stage_widths(spec.a, spec.b) == tuple(int(row[f"width_stage{stage}"]) for stage in range(1, 6))
        if spec.groups > 1:
            printed = tuple(int(n) for n in row["groupwise_layer_numbers_1_based_if_g2_or_g4"].split(";"))
            with torch.device("meta"):
                model = build_model(row["model"], form="deploy")
            convs = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
            assert tuple(i for i, conv in enumerate(convs, 1) if conv.groups == spec.groups) == printed


def test_names_need_no_torch():
    code = "import sys, repvgg_companion.models.names; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("RepVGG-A9", "RepVGG-A0"), ("repvgg-b1G4", "RepVGG-B1g4"), ("RepVGG-B0_identity", "RepVGG-B0_identity-only"),
     ("ResNet50", "ResNet-50"), ("RepVGG-A1_acbb", "RepVGG-A1_acb")],
)  # fmt: skip
def test_an_unknown_name_gets_the_nearest_ones(wrong, near):
    with pytest.raises(CompanionError, match="nearest") as raised:
        require_model(wrong)
    assert near in str(raised.value)


def test_a_network_of_your_own_is_named_by_its_structure():
    own = require_model("RepVGG-1.4.6.16.1-a2-b4-g4")
    assert replace(own, name="RepVGG-B1g4") == require_model("RepVGG-B1g4")
    assert require_model("RepVGG-1.1.1.1.1-a0.5-b1_plain").block == "plain"
    small = require_model("RepVGG-A0-s1.1.2.2.2")
    assert replace(small, name="RepVGG-A0", strides=(2, 2, 2, 2, 2)) == require_model("RepVGG-A0")
    network = build_model("RepVGG-A0-s1.1.2.2.2", num_classes=10, width=0.125)
    _, last = network.last_two_stages(torch.zeros(1, 3, 32, 24))
    assert last.shape[2:] == (4, 3), "a stride of 8 in all, on images that need not be square"
    assert build_model(small.name, num_classes=7, width=0.125, form="deploy")(torch.zeros(1, 3, 32, 24)).shape == (1, 7)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("RepVGG-1.4.6.0.1-a1-b1", "every stage has at least one layer"),
        ("RepVGG-1.4.6.16.1-a1-b1-g0", "groups are at least 1"),
        ("RepVGG-1.4.6.16.1-a1-b1-g3", "64, 64, 128, 256, 512 channels, and each must be a positive multiple of its 3"),
        ("RepVGG-1.4.6.16.1-a0-b1", "must be a positive multiple"),
        ("RepVGG-A0-s1.1.3.2.2", "the stride of a stage is 1 or 2"),
        ("RepVGG-4.6.16.1-a1-b1", "named by its layers, a and b, like RepVGG-1.4.6.16.1-a1-b3"),
        ("RepVGG-4.6.16.1-a1-b1", "it has five stages, and 4.6.16.1 are not the layers of five"),
        ("RepVGG-A0-s1.1.2.2.2_palin", "the nearest names are RepVGG-A0-s1.1.2.2.2_plain"),
        ("RepVGG-1.4.6.16.1-a1-b1_diracnets", "the nearest names are RepVGG-1.4.6.16.1-a1-b1_diracnet"),
        ("RepVGG-A0-s1.1.2.2", "it has five stages, and 1.1.2.2 are not the strides of five"),
        ("RepVGG-1.4.6.16.1-a1-b1-s1.1.2.2.2.2", "1.1.2.2.2.2 are not the strides of five"),
    ],
)
def test_a_structure_that_cannot_be_built_is_refused(name, message):
    with pytest.raises(CompanionError, match=message):
        build_model(name)


def test_what_cannot_be_converted_says_why():
    for name, reason in (("RepVGG-B0_relu-in-branch", "not linear"), ("RepVGG-B0_residual-reorg", "shortcuts")):
        with pytest.raises(CompanionError, match=reason):
            require_convertible(name)
        with pytest.raises(CompanionError, match=reason):
            build_model(name, form="deploy")


@pytest.mark.parametrize("arguments", [{"form": "fused"}, {"width": 0}, {"width": float("nan")}, {"num_classes": 0}])
def test_wrong_arguments_are_one_sentence(arguments):
    with pytest.raises(CompanionError):
        build_model("RepVGG-A0", **arguments)


def test_width_factor_keeps_groups_possible_and_full_width_exact():
    assert scaled_width(100, 1) == 100
    for name in REPVGG_MODELS:
        spec = MODELS[name]
        for width in (0.1, 0.25, 0.3, 0.5, 1.25):
            assert all(channels % 8 == 0 for channels in stage_widths(spec.a, spec.b, width))


@pytest.mark.parametrize("name", MODELS)
def test_every_network_runs_in_every_form_at_small_size(name):
    spec = MODELS[name]
    px = 64 if spec.family == "PSPNet" else 32
    shape = (2, 5, px, px) if spec.family == "PSPNet" else (2, 5)
    model = build_model(name, num_classes=5, width=0.25)
    assert model.training
    model.eval()
    assert model(torch.randn(2, 3, px, px)).shape == shape
    if spec.convertible:
        assert (
            build_model(name, num_classes=5, width=0.25, form="deploy").eval()(torch.randn(2, 3, px, px)).shape == shape
        )


def test_identity_kernel_returns_its_input_in_every_grouping():
    images = torch.randn(1, 8, 5, 5)
    for groups in (1, 2, 4, 8):
        kernel = identity_kernel(torch.empty(8, 8 // groups, 3, 3))
        assert torch.equal(nn.functional.conv2d(images, kernel, padding=1, groups=groups), images)


def test_branches_of_each_block_are_those_of_tables_6_and_7():
    branches = {
        kind: [name.removeprefix("rbr_") for name, _ in RepVGGBlock(8, 8, block=kind).branches()] for kind in BLOCKS
    }
    assert branches == {
        "repvgg": ["dense", "1x1", "identity"],
        "plain": ["dense"],
        "identity-only": ["dense", "identity"],
        "1x1-only": ["dense", "1x1"],
        "identity-without-bn": ["dense", "1x1", "identity"],
        "post-addition-bn": ["dense", "1x1", "identity"],
        "relu-in-branch": ["dense", "1x1", "identity"],
        "diracnet": ["dense"],
        "trivial-reparam": ["dense"],
        "acb": ["dense", "1x3", "3x1"],
    }
    norms = {
        kind: sum(isinstance(layer, nn.BatchNorm2d) for layer in RepVGGBlock(8, 8, block=kind).modules())
        for kind in BLOCKS
    }
    assert norms == {
        **{"repvgg": 3, "plain": 1, "identity-only": 2, "1x1-only": 2, "identity-without-bn": 2},
        **{"post-addition-bn": 1, "relu-in-branch": 3, "diracnet": 1, "trivial-reparam": 1, "acb": 3},
    }
    for kind in BLOCKS:
        assert RepVGGBlock(8, 8, stride=2, block=kind).branches()[-1][0] != "rbr_identity"


def test_relu_in_branch_adds_only_what_is_not_negative():
    block = RepVGGBlock(8, 8, block="relu-in-branch").eval()
    images = torch.randn(2, 8, 6, 6)
    expected = sum(torch.relu(branch(images)) for _, branch in block.branches())
    torch.testing.assert_close(block(images), expected)
    assert torch.equal(torch.relu(expected), expected)  # an outer ReLU would change nothing


def test_dirac_and_trivial_kernels_follow_their_formulas():
    dirac, trivial = DiracConv(4, 4, 3, padding=1, bias=False), IdentityPlusConv(4, 4, 3, padding=1, bias=False)
    assert torch.equal(dirac.alpha, torch.ones(4)) and torch.equal(dirac.beta, torch.full((4,), 0.1))
    with torch.no_grad():
        dirac.alpha.uniform_()
        dirac.beta.uniform_()
    for o in range(4):
        identity = torch.zeros(4, 3, 3)
        identity[o, 1, 1] = 1
        filter_ = dirac.weight[o] / dirac.weight[o].square().sum().sqrt()
        torch.testing.assert_close(dirac.kernel()[o], dirac.alpha[o] * identity + dirac.beta[o] * filter_)
        torch.testing.assert_close(trivial.kernel()[o], trivial.weight[o] + identity)


def test_residual_reorg_has_the_blocks_of_table_7():
    with torch.device("meta"):
        model = build_model("RepVGG-B0_residual-reorg")
    assert [len(stage) for stage in (model.stage1, model.stage2, model.stage3)] == [2, 3, 8]
    kernels = [layer.kernel_size for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert kernels.count((3, 3)) == 28 and kernels.count((1, 1)) == 3


def test_resnet_50_with_repvgg_blocks_replaces_every_3x3():
    with torch.device("meta"):
        model = build_model("ResNet-50_repvgg-blocks")
    blocks = [layer for layer in model.modules() if isinstance(layer, RepVGGBlock)]
    assert len(blocks) == 16 and all(block.rbr_identity is not None for block in blocks)


@pytest.mark.parametrize("name", ["ResNet-18", "ResNet-34", "ResNeXt-50", "ResNeXt-101"])
def test_baselines_compute_what_torchvision_computes(name):
    import torchvision

    theirs = {"ResNet-18": "resnet18", "ResNet-34": "resnet34", "ResNeXt-50": "resnext50_32x4d",
              "ResNeXt-101": "resnet101"}[name]  # fmt: skip
    options = {"groups": 32, "width_per_group": 4} if name == "ResNeXt-101" else {}
    oracle = torchvision.models.get_model(theirs, num_classes=7, **options).eval()
    ours = build_model(name, num_classes=7).eval()
    ours.load_state_dict(oracle.state_dict(), strict=True)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), oracle(images), rtol=1e-4, atol=1e-4)


def test_the_bottleneck_has_its_stride_on_the_first_convolution():
    with torch.device("meta"):
        original, resnext = build_model("ResNet-50"), build_model("ResNeXt-50")
    assert original.layer2[0].conv1.stride == (2, 2) and original.layer2[0].conv2.stride == (1, 1)
    assert resnext.layer2[0].conv1.stride == (1, 1) and resnext.layer2[0].conv2.stride == (2, 2)


@pytest.mark.parametrize("name", ["RepVGG-B0", "RepVGG-B0_acb", "RepVGG-B0_relu-in-branch", "EfficientNet-B0"])
def test_folding_batch_norms_keeps_the_function(name):
    from timm_oracle import randomize

    torch.manual_seed(0)
    model = randomize(build_model(name, num_classes=5, width=0.25)).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        expected = model(images)
        folded = fold_batch_norms(model)
        torch.testing.assert_close(folded(images), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    left = [name for name, layer in folded.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    assert all(name.endswith("rbr_identity") for name in left)


def test_dilation_of_pspnet_backbones():
    layers = MODELS["RepVGG-B2"].layers
    assert dilations_per_layer(layers, "last-2-stages") == (1,) * 11 + (2,) * 16 + (4,)
    assert dilations_per_layer(layers, "last-5") == (1,) * 23 + (2,) * 4 + (4,)
    for name in ("PSPNet-RepVGG-B2", "PSPNet-ResNet-50"):
        model = build_model(name, num_classes=4, width=0.25)
        logits, auxiliary = model(torch.randn(2, 3, 65, 65))
        assert logits.shape == auxiliary.shape == (2, 4, 65, 65)
        assert model.eval().backbone.last_two_stages(torch.randn(1, 3, 65, 65))[1].shape[-1] == 9  # output stride 8
