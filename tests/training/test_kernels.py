"""The way round a faulty CPU kernel computes what the layer computes, and a training on it survives."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from repvgg_companion.models.build import build_model
from repvgg_companion.training.kernels import use_sound_kernels

CRASHES = """
import torch
from torch import nn
from repvgg_companion.training.kernels import use_sound_kernels
conv = use_sound_kernels(nn.Conv2d(3, 16, 1, 2, bias=False), "cpu").to(memory_format=torch.channels_last)
for step in range(60):
    images = torch.randn(64, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    conv(images).square().mean().backward()
    kept = [torch.randn(size) for size in (7, 100, 1000, 5000)]
"""


def test_a_strided_pointwise_convolution_computes_the_same():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 16, 1, 2, bias=False).double()
    sound = use_sound_kernels(copy.deepcopy(conv), "cpu")
    assert conv.stride == (2, 2) and sound.stride == (1, 1)
    for side in (32, 33):
        images = torch.randn(2, 3, side, side, dtype=torch.double)
        expected, got = conv(images), sound(images)
        torch.testing.assert_close(got, expected)
        weight = torch.randn_like(expected)
        (wanted,) = torch.autograd.grad((expected * weight).sum(), conv.weight)
        (found,) = torch.autograd.grad((got * weight).sum(), sound.weight)
        torch.testing.assert_close(found, wanted)


def test_only_the_affected_layer_changes_and_no_key():
    network = build_model("RepVGG-A0", num_classes=10, width=0.25)
    strides = {name: layer.stride for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)}
    keys = list(network.state_dict())
    sound = use_sound_kernels(copy.deepcopy(network), "cpu")
    changed = [name for name, layer in sound.named_modules() if name in strides and layer.stride != strides[name]]
    assert changed == ["stage0.rbr_1x1.conv"]
    assert list(sound.state_dict()) == keys
    on_gpu = use_sound_kernels(copy.deepcopy(network), "cuda")
    assert not [name for name, layer in on_gpu.named_modules() if name in strides and layer.stride != strides[name]]


@pytest.mark.parametrize("channels_last", [False, True])
def test_taps_that_see_padding_only_get_no_gradient_in_bfloat16(channels_last):
    """The kernel leaves them as the memory was, so freed NaNs are laid out for it."""
    torch.manual_seed(0)
    conv = use_sound_kernels(nn.Conv2d(16, 80, 3, 2, 1, bias=False), "cpu")
    layout = torch.channels_last if channels_last else torch.contiguous_format
    conv = conv.to(memory_format=layout)
    images = torch.randn(32, 16, 1, 1).contiguous(memory_format=layout)
    weight = torch.randn(32, 80, 1, 1)
    wanted = torch.einsum("noij,ncij->oc", weight, images)
    for _ in range(3):
        conv.weight.grad = None
        with torch.autocast("cpu", torch.bfloat16):
            output = conv(images)
        freed = [torch.full((size,), float("nan"), dtype=kind) for size in (100, 2500, 5000, 11520, 20000, 100000)
                 for kind in (torch.float32, torch.bfloat16) for _ in range(6)]  # fmt: skip
        del freed
        (output.float() * weight).sum().backward()
        gradient = conv.weight.grad.clone()
        torch.testing.assert_close(gradient[:, :, 1, 1], wanted, rtol=0.05, atol=0.2)
        gradient[:, :, 1, 1] = 0
        assert not gradient.any(), "a tap that sees padding has a gradient"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator's checks are glibc's")
def test_the_heap_survives_a_training(monkeypatch):
    monkeypatch.setenv("MALLOC_CHECK_", "3")
    monkeypatch.setenv("MALLOC_PERTURB_", "55")
    done = subprocess.run([sys.executable, "-c", CRASHES], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
