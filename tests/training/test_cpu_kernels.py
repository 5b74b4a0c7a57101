"""Layers that avoid a faulty CPU kernel compute the same, and a training with them does not crash."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from repvgg_companion.models.build import build_model
from repvgg_companion.training.cpu_kernels import avoid_faulty_and_slow_cpu_kernels

CRASHES = """
import torch
from torch import nn
from repvgg_companion.training.cpu_kernels import avoid_faulty_and_slow_cpu_kernels
conv = avoid_faulty_and_slow_cpu_kernels(nn.Conv2d(3, 16, 1, 2, bias=False), "cpu")
conv = conv.to(memory_format=torch.channels_last)
for step in range(60):
    images = torch.randn(64, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    conv(images).square().mean().backward()
    kept = [torch.randn(size) for size in (7, 100, 1000, 5000)]
"""


def test_a_strided_pointwise_convolution_computes_the_same():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 16, 1, 2, bias=False).double()
    sound = avoid_faulty_and_slow_cpu_kernels(copy.deepcopy(conv), "cpu")
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
    sound = avoid_faulty_and_slow_cpu_kernels(copy.deepcopy(network), "cpu")
    changed = [name for name, layer in sound.named_modules() if name in strides and layer.stride != strides[name]]
    assert changed == ["stage0.rbr_1x1.conv"]
    assert list(sound.state_dict()) == keys
    on_gpu = avoid_faulty_and_slow_cpu_kernels(copy.deepcopy(network), "cuda")
    assert not [name for name, layer in on_gpu.named_modules() if name in strides and layer.stride != strides[name]]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kernel", "groups"), [(3, 1), (3, 4), (7, 1)])
def test_gradients_of_a_strided_convolution_of_one_pixel_are_right(precision, kernel, groups):
    torch.manual_seed(0)
    conv = nn.Conv2d(12, 24, kernel, 2, padding=kernel // 2, groups=groups, bias=False)
    reference = copy.deepcopy(conv).double()
    sound = avoid_faulty_and_slow_cpu_kernels(conv, "cpu").to(memory_format=torch.channels_last)
    for side in (1, 2, 1, 5):  # whatever came before
        images = torch.randn(8, 12, side, side)
        wanted = reference(images.double())
        weight = torch.randn_like(wanted)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
            got = sound(images.contiguous(memory_format=torch.channels_last))
        assert got.shape == wanted.shape
        (right,) = torch.autograd.grad((wanted * weight).sum(), reference.weight)
        (found,) = torch.autograd.grad((got.float() * weight.float()).sum(), sound.weight)
        assert (found.double() - right).abs().max() < 0.03 * right.abs().max(), side


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator's checks are glibc's")
def test_the_heap_survives_a_training(monkeypatch):
    monkeypatch.setenv("MALLOC_CHECK_", "3")
    monkeypatch.setenv("MALLOC_PERTURB_", "55")
    done = subprocess.run([sys.executable, "-c", CRASHES], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
