"""The conversion itself: each block against its own forward pass, the rounding, and how much arithmetic it takes."""

import pytest
import torch
from timm_oracle import randomize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from repvgg_companion.models.blocks import BLOCKS, RepVGGBlock
from repvgg_companion.models.build import build_model
from repvgg_companion.models.names import MODELS, REPVGG_MODELS
from repvgg_companion.reparameterization import convert as convert_module
from repvgg_companion.reparameterization.agreement import compare, same_bits
from repvgg_companion.reparameterization.convert import convert, convert_model, fuse_block

SHAPES = [(8, 8, 1, 1), (8, 8, 1, 4), (8, 16, 1, 2), (8, 8, 2, 1), (8, 16, 2, 1)]


@pytest.mark.parametrize("kind", [kind for kind, grammar in BLOCKS.items() if not grammar.branch_relu])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dilation", [1, 2])
def test_every_block_equals_its_one_convolution(kind, shape, dilation):
    torch.manual_seed(0)
    in_channels, out_channels, stride, groups = shape
    options = {"stride": stride, "groups": groups, "dilation": dilation, "block": kind}
    block = randomize(RepVGGBlock(in_channels, out_channels, **options)).double().eval()
    plain = RepVGGBlock(in_channels, out_channels, deploy=True, **options).double().eval()
    kernel, bias = fuse_block(block, block.state_dict(), dtype=torch.float64)
    plain.load_state_dict({"rbr_reparam.weight": kernel, "rbr_reparam.bias": bias}, strict=True)
    images = torch.randn(2, in_channels, 9, 9, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(plain(images), block(images), rtol=1e-12, atol=1e-12)
        assert plain(images).std() > 0.01


def test_slices_do_not_show(monkeypatch):
    torch.manual_seed(0)
    state = randomize(build_model("RepVGG-B1g4", num_classes=3, width=0.25)).state_dict()
    whole = convert_model("RepVGG-B1g4", state, num_classes=3, width=0.25)
    monkeypatch.setattr(convert_module, "_SLICE_ELEMENTS", 700)
    assert same_bits(whole, convert_model("RepVGG-B1g4", state, num_classes=3, width=0.25)) == []


def test_the_result_is_rounded_once_and_the_input_untouched():
    torch.manual_seed(0)
    module = randomize(build_model("RepVGG-A0", num_classes=3, width=0.25))
    for state in (module.state_dict(), module.double().state_dict()):
        before = {key: tensor.clone() for key, tensor in state.items()}
        exact = convert(module, state)
        assert all(tensor.dtype == torch.float64 for tensor in exact.values())
        rounded = {key: tensor.to(torch.float32) for key, tensor in exact.items()}
        assert same_bits(rounded, convert(module, state, dtype=torch.float32)) == []
        assert same_bits(before, state) == []


@pytest.mark.parametrize("name", [name for name, spec in MODELS.items() if spec.family == "PSPNet"])
def test_pspnet_is_certified_like_any_other(name):
    torch.manual_seed(0)
    train = randomize(build_model(name, num_classes=4, width=0.25)).double().eval()
    deploy = build_model(name, num_classes=4, width=0.25, form="deploy").double().eval()
    deploy.load_state_dict(convert(train), strict=True)
    agreement = compare(train, deploy, torch.randn(2, 3, 97, 97), batch_size=1)
    assert agreement.max_relative_error <= 1e-10 and agreement.prediction_flips == 0


class Elements(TorchDispatchMode):
    """Counts the elements of all tensors that operators return."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.count += sum(part.numel() for part in tree_leaves(result) if isinstance(part, torch.Tensor))
        return result


@pytest.mark.parametrize("name", REPVGG_MODELS)
def test_a_full_network_converts_in_a_few_operations_for_each_parameter(name):
    """About nine elements a parameter, without memory for them; what this takes is in `benchmarks/conversion.py`."""
    with torch.device("meta"):
        module = build_model(name)
    with Elements() as elements:
        convert(module, module.state_dict(), dtype=torch.float32)
    assert elements.count <= 12 * sum(parameter.numel() for parameter in module.parameters())
