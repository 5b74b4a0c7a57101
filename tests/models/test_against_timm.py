"""timm is an independent RepVGG: the same weights must give the same logits in both forms."""

import pytest
import torch
from timm.utils import reparameterize_model
from timm_oracle import STRUCTURES, randomize, timm_network

from repvgg_companion.models.build import build_model
from repvgg_companion.models.names import REPVGG_MODELS
from repvgg_companion.reparameterization.convert import convert_model
from repvgg_companion.weights.key_layouts import from_official, to_official

CLASSES = 11


def test_the_oracle_knows_every_variant():
    assert tuple(STRUCTURES) == REPVGG_MODELS


@pytest.mark.parametrize("name", REPVGG_MODELS)
def test_full_width_has_the_tensors_of_timm(name):
    with torch.device("meta"):
        ours, theirs = build_model(name).state_dict(), timm_network(name).state_dict()
    mapped, unknown = to_official(theirs, "timm")
    assert not unknown
    assert {key: tensor.shape for key, tensor in mapped.items()} == {key: t.shape for key, t in ours.items()}


@pytest.mark.parametrize("name", REPVGG_MODELS)
def test_logits_in_both_forms(name):
    # At 0.25 timm would give A0 12 channels, where ours are multiples of 8, and round 40/16 of D2se up.
    width = 0.5 if name in ("RepVGG-A0", "RepVGG-D2se") else 0.25
    torch.manual_seed(0)
    ours = randomize(build_model(name, num_classes=CLASSES, width=width)).double().eval()
    state = ours.state_dict()
    theirs = timm_network(name, num_classes=CLASSES, width=width).double().eval()
    theirs.load_state_dict(from_official(state, "timm"), strict=True)
    plain = build_model(name, num_classes=CLASSES, width=width, form="deploy").double().eval()
    plain.load_state_dict(convert_model(name, state, num_classes=CLASSES, width=width), strict=True)
    images = torch.randn(2, 3, 48, 48, dtype=torch.float64)
    with torch.inference_mode():
        expected = theirs(images)
        scale = expected.abs().max()
        # Logits that hardly depend on the image would prove nothing.
        assert (expected[0] - expected[1]).abs().max() > 1e-3 * scale
        assert (ours(images) - expected).abs().max() <= 1e-12 * scale
        assert (plain(images) - expected).abs().max() <= 1e-12 * scale
        fused = reparameterize_model(theirs).double()
        assert (fused(images) - plain(images)).abs().max() <= 1e-12 * scale
        fused_state, unknown = to_official(fused.state_dict(), "timm")
    assert not unknown
    for key, tensor in plain.state_dict().items():
        torch.testing.assert_close(fused_state[key], tensor, rtol=1e-10, atol=1e-12)
