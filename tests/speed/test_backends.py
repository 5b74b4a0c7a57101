"""Backends give the network's logits; missing ones say why."""

import builtins
import gc
import subprocess
import sys
import types
import weakref

import pytest
import torch
from stand_in_gpu import stand_in_gpu
from torch._dynamo.utils import counters

from repvgg_companion.speed.backends import forget_compiled, make_call
from repvgg_companion.speed.engines import Unavailable
from repvgg_companion.speed.fused import FusedConvolution, NotFusable, fuse, space_to_depth, space_to_depth_weight
from repvgg_companion.speed.networks import Inputs, ModelForm, prepare
from repvgg_companion.speed.winograd import WinogradConvolution, with_winograd


def logits(backend, model, form, *, precision="fp32", memory_format="channels_last", width=0.25):
    module = prepare(ModelForm(model, form, width, 10).build(), precision=precision, memory_format=memory_format)
    inputs = Inputs(2, (3, 64, 64), precision, memory_format, "cpu").draw(2)
    with torch.inference_mode():
        expected = [module(images).clone() for images in inputs]
        call = make_call(backend, module, inputs, threads=1, precision=precision)
        found = [torch.as_tensor(call()).clone() for _ in range(3)]
    return [*expected, expected[0]], found


@pytest.mark.parametrize("model", ["RepVGG-A0", "RepVGG-B1g4", "RepVGG-D2se", "ResNet-18", "ResNet-50", "VGG-16"])
@pytest.mark.parametrize("form", ["train", "deploy"])
def test_fused_networks_compute_the_same(model, form):
    # Eager itself is 1.4e-3 from float64 in D2se's 48 layers of random weights.
    limit = 5e-3 if model == "RepVGG-D2se" else 2e-4
    for expected, found in zip(*logits("fused", model, form), strict=True):
        assert (found - expected).abs().max() <= limit * expected.abs().max()


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_engines_compute_the_same_and_rotate_their_inputs(backend):
    pytest.importorskip(backend)
    expected, found = logits(backend, "RepVGG-A0", "deploy")
    for one, other in zip(expected, found, strict=True):
        assert (other - one).abs().max() <= 2e-4 * one.abs().max()
    assert not torch.equal(found[0], found[1])


SIGNAL_AFTER_OPENVINO = """
import gc, signal, torch
from repvgg_companion.speed.engines import openvino_call
calls = []
for channels in (3, 4):
    network, images = torch.nn.Conv2d(channels, 4, 3).eval(), [torch.randn(1, channels, 8, 8)]
    calls.append(openvino_call(network, images, 1, "fp32"))
while calls:
    calls.pop(0)
    gc.collect()
signal.signal(signal.SIGALRM, lambda *_: print("handled"))
signal.raise_signal(signal.SIGALRM)
"""


def test_a_signal_after_openvino_does_not_end_the_process():
    pytest.importorskip("openvino")
    done = subprocess.run([sys.executable, "-c", SIGNAL_AFTER_OPENVINO], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_every_convolution_of_a_plain_network_is_fused_with_its_relu():
    module = ModelForm("RepVGG-A0", "deploy", 0.25, 10).build()
    graph = fuse(module, torch.randn(1, 3, 64, 64))
    fused = [part for part in graph.modules() if isinstance(part, FusedConvolution)]
    assert len(fused) == 22
    assert all(part.relu for part in fused)
    assert not any("relu" in str(node.target) for node in graph.graph.nodes)


def test_the_additions_of_a_residual_network_are_fused_too():
    graph = fuse(ModelForm("ResNet-18", "deploy", 0.25, 10).build(), torch.randn(1, 3, 64, 64))
    fused = [part for part in graph.modules() if isinstance(part, FusedConvolution)]
    assert sum(part.adds for part in fused) == 8
    assert not any("relu" in str(node.target) or "add" in str(node.target) for node in graph.graph.nodes)


@pytest.mark.parametrize("adds", [False, True])
def test_a_layer_without_a_fused_operator_is_computed_one_operator_after_the_other(adds):
    conv = torch.nn.Conv2d(4, 4, 3, padding=1)
    fused = FusedConvolution(conv, (2, 4, 8, 8), relu=True, adds=adds)
    # cuDNN's operators do not exist for these tensors, as they do not for some layers on a GPU.
    fused.on_cpu, fused.weight = False, conv.weight.detach()
    images, other = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8) if adds else None
    with torch.inference_mode():
        fused.choose_way(images, other)
        assert fused.way == "separate" and not fused.is_fused
        expected = torch.relu(conv(images) + (other if adds else 0))
        assert torch.allclose(fused(images, other), expected, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_stem_on_blocks_of_pixels_is_the_convolution(channels):
    conv = torch.nn.Conv2d(channels, 8, 3, stride=2, padding=1, bias=False, dtype=torch.float64)
    for layout in (torch.contiguous_format, torch.channels_last):
        images = torch.randn(2, channels, 10, 6, dtype=torch.float64).contiguous(memory_format=layout)
        found = torch.nn.functional.conv2d(space_to_depth(images), space_to_depth_weight(conv.weight.detach()))
        assert torch.allclose(found, conv(images), atol=1e-12)


@pytest.mark.parametrize("slow", ["fused", "space-to-depth", "separate"])
def test_a_gpu_takes_the_fastest_way_that_is_right(slow, monkeypatch):
    with stand_in_gpu(monkeypatch):
        fused = FusedConvolution(torch.nn.Conv2d(3, 4, 3, 2, 1), (2, 3, 8, 8), relu=True, adds=False)
        seconds = {"fused": 2.0, "space-to-depth": 1.0, "separate": 3.0, slow: 4.0}
        clock = types.SimpleNamespace(time_block=lambda call, iterations: seconds[fused.way])
        monkeypatch.setattr("repvgg_companion.speed.fused.clock_for", lambda kind: clock)
        images = torch.randn(2, 3, 8, 8)
        fused.choose_way(images)
        assert fused.way == ("fused" if slow == "space-to-depth" else "space-to-depth")
        right = torch.cudnn_convolution_relu
        monkeypatch.setattr(torch, "cudnn_convolution_relu", lambda *values: 1.5 * right(*values))
        fused.choose_way(images)
        assert fused.way == "separate", "the other two are wrong"


def test_the_call_of_a_graph_holds_what_the_graph_reads(monkeypatch):
    with stand_in_gpu(monkeypatch), torch.inference_mode():
        module = ModelForm("RepVGG-A0", "deploy", 0.25, 10).build()
        inputs = Inputs(2, (3, 64, 64), "fp32", "channels_last", "cuda").draw(2)
        watched = [weakref.ref(thing) for thing in (module.stage0.rbr_reparam.weight, *inputs)]
        run = make_call("cuda-graph", module, inputs, threads=1).run
        del module, inputs
        gc.collect()
        assert all(thing() is not None for thing in watched), "a graph knows addresses only"
        del run
        gc.collect()
        assert not any(thing() is not None for thing in watched)


def test_on_a_gpu_a_network_without_a_fused_operator_is_a_reason(monkeypatch):
    with stand_in_gpu(monkeypatch), torch.inference_mode():
        module = ModelForm("RepVGG-A0", "train", 0.25, 10).build()
        inputs = Inputs(2, (3, 64, 64), "fp32", "channels_last", "cuda").draw(1)
        with pytest.raises(Unavailable, match="no fused operator serves any of its 0 convolutions"):
            make_call("fused", module, inputs, threads=1)


def test_a_network_in_train_mode_is_not_fused():
    with pytest.raises(NotFusable, match="train mode"):
        fuse(ModelForm("RepVGG-A0", "deploy", 0.25, 10).build().train(), torch.randn(1, 3, 64, 64))


def test_a_cuda_graph_without_a_gpu_is_a_reason():
    with pytest.raises(Unavailable, match="needs a GPU"):
        logits("cuda-graph", "RepVGG-A0", "deploy")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_engine_that_is_not_installed_is_a_reason(backend, monkeypatch):
    original = builtins.__import__

    def without(name, *rest, **more):
        if name.split(".")[0] == backend:
            raise ImportError(name, name=name)
        return original(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(Unavailable, match=f"{backend} is not installed"):
        logits(backend, "RepVGG-A0", "deploy")


@pytest.mark.parametrize(("px", "groups", "bias"), [((8, 8), 1, True), ((7, 10), 1, False), ((1, 5), 2, True)])
@pytest.mark.parametrize("pieces", [1, 4])
def test_a_winograd_convolution_is_the_convolution(px, groups, bias, pieces, monkeypatch):
    if pieces > 1:
        monkeypatch.setattr("repvgg_companion.speed.winograd._PIECE_BYTES", 1)
    conv = torch.nn.Conv2d(6, 8, 3, padding=1, groups=groups, bias=bias).double()
    images = torch.randn(5, 6, *px, dtype=torch.float64)  # 5 in 4 pieces: 2, 2 and 1
    with torch.inference_mode():
        expected, found = conv(images), WinogradConvolution(conv)(images)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-13 * expected.abs().max()


@pytest.mark.parametrize(
    ("model", "batch_size", "layers"),
    # At most 64 channels, little work (RepVGG-A0 for one image) and narrow groups do not gain.
    [("RepVGG-A0", 8, 16), ("RepVGG-A0", 1, 0), ("RepVGG-B1", 8, 23), ("RepVGG-B1", 1, 23), ("RepVGG-B1g4", 8, 18),
     ("ResNet-18", 8, 9), ("ResNet-50", 8, 13), ("EfficientNet-B0", 8, 0)],
)  # fmt: skip
def test_the_convolutions_that_gain_are_replaced(model, batch_size, layers):
    module = ModelForm(model, "deploy", 1.0, 10).on_meta().eval()
    replaced = with_winograd(module, torch.empty(batch_size, 3, 224, 224, device="meta"))
    parts = [] if replaced is None else list(replaced.modules())
    assert sum(isinstance(part, WinogradConvolution) for part in parts) == layers


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"width": 0.25}, "no convolution .* gains"), ({"precision": "bf16"}, "fp32 only")],
)
def test_where_winograd_does_not_apply_there_is_a_reason(change, reason):
    with pytest.raises(Unavailable, match=reason):
        logits("winograd", "RepVGG-A0", "deploy", **change)


@pytest.mark.slow
def test_the_winograd_backend_computes_the_same(monkeypatch):
    monkeypatch.setattr("repvgg_companion.speed.winograd.LEAST_SAVING", 1)
    monkeypatch.setattr("repvgg_companion.speed.winograd._LEAST_SAVED", 0)
    for expected, found in zip(*logits("winograd", "RepVGG-1.2.2.1.1-a0.75-b2.5", "deploy", width=0.5), strict=True):
        assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()


class Scaled(torch.nn.Module):
    """A network that takes a second to compile."""

    def __init__(self, factor):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.full((3,), factor), requires_grad=False)

    def forward(self, images):
        return images * self.factor


@pytest.mark.slow
def test_networks_of_one_class_are_all_compiled_and_then_forgotten():
    # By default torch runs the ninth network of a class eagerly.
    modules = [Scaled(float(number)) for number in range(9)]
    inputs = [torch.ones(2, 3)]
    forget_compiled()
    counters["stats"].clear()
    calls = [make_call("compile", module, inputs, threads=1) for module in modules]
    assert [float(call()[0, 0]) for call in calls] == [float(number) for number in range(9)]
    assert counters["stats"]["unique_graphs"] == 9
    graphs = counters["stats"]["unique_graphs"]
    with torch.inference_mode():
        calls[0]()
    assert counters["stats"]["unique_graphs"] == graphs
    forget_compiled()
    calls[0]()
    assert counters["stats"]["unique_graphs"] == graphs + 1


@pytest.mark.slow
def test_torch_compile_computes_the_same():
    for expected, found in zip(*logits("compile", "RepVGG-A0", "deploy"), strict=True):
        assert (found - expected).abs().max() <= 2e-4 * expected.abs().max()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("backend", ["fused", "cuda-graph", "fused-cuda-graph"])
def test_gpu_backends_compute_the_same(backend):
    module = ModelForm("RepVGG-A0", "deploy", 0.25, 10).build(device="cuda")
    inputs = Inputs(2, (3, 64, 64), "fp32", "contiguous", "cuda").draw(2)
    with torch.inference_mode():
        expected = [module(images).clone() for images in inputs]
        call = make_call(backend, module, inputs, threads=1)
        for one in expected:
            assert (call() - one).abs().max() <= 1e-3 * one.abs().max()
