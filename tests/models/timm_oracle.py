"""timm's RepVGG as an independent oracle: the same network at any width, the g2 variants included."""

from dataclasses import replace

import torch
from timm.models.byobnet import ByobNet, _rep_vgg_bcfg, model_cfgs

# Depth per stage, width multipliers and groups, written down here again and not taken from the package under test.
_A, _B, _D = (2, 4, 14, 1), (4, 6, 16, 1), (8, 14, 24, 1)
STRUCTURES = {
    "RepVGG-A0": (_A, 0.75, 2.5, 0), "RepVGG-A1": (_A, 1, 2.5, 0), "RepVGG-A2": (_A, 1.5, 2.75, 0),
    "RepVGG-B0": (_B, 1, 2.5, 0), "RepVGG-B1": (_B, 2, 4, 0), "RepVGG-B1g2": (_B, 2, 4, 2),
    "RepVGG-B1g4": (_B, 2, 4, 4), "RepVGG-B2": (_B, 2.5, 5, 0), "RepVGG-B2g2": (_B, 2.5, 5, 2),
    "RepVGG-B2g4": (_B, 2.5, 5, 4), "RepVGG-B3": (_B, 3, 5, 0), "RepVGG-B3g2": (_B, 3, 5, 2),
    "RepVGG-B3g4": (_B, 3, 5, 4), "RepVGG-D2se": (_D, 2.5, 5, 0),
}  # fmt: skip


def timm_network(name: str, *, num_classes: int = 1000, width: float = 1.0) -> ByobNet:
    """timm's network for one of our names; `width` scales its width multipliers."""
    depths, a, b, groups = STRUCTURES[name]
    config = model_cfgs["repvgg_d2se" if name.endswith("se") else "repvgg_b1"]
    blocks = _rep_vgg_bcfg(d=depths, wf=tuple(width * factor for factor in (a, a, a, b)), groups=groups)
    stem = int(min(64, 64 * a) * width)
    return ByobNet(replace(config, blocks=blocks, stem_chs=stem), num_classes=num_classes)


def randomize(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Give every batch norm statistics and weights that differ from channel to channel, so that mistakes show."""
    generator = torch.Generator().manual_seed(seed)
    for name, layer in module.named_modules():
        if name.endswith(("se.up", "attn.fc2")):
            # Untrained, 48 layers of squeeze-and-excitation halve the signal each until nothing is left of the image.
            with torch.no_grad():
                layer.bias.uniform_(1.0, 4.0, generator=generator)
        if isinstance(layer, torch.nn.BatchNorm2d):
            with torch.no_grad():
                layer.weight.uniform_(0.5, 1.5, generator=generator)
                layer.bias.normal_(0, 0.2, generator=generator)
                layer.running_mean.normal_(0, 0.2, generator=generator)
                layer.running_var.uniform_(0.3, 2.0, generator=generator)
    return module
