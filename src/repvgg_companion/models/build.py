"""Build a network of the paper by its name."""

from torch import nn

from repvgg_companion.errors import CompanionError, require_kind
from repvgg_companion.identity import FORMS
from repvgg_companion.models.fold import fold_batch_norms
from repvgg_companion.models.names import ModelSpec, require_convertible, require_model, stage_widths
from repvgg_companion.models.repvgg import RepVGG, ResidualReorg
from repvgg_companion.models.resnet import build_resnet


def build_model(name: str, *, num_classes: int = 1000, width: float = 1.0, form: str = "train") -> nn.Module:
    """Build `name` with random weights; float images [n, 3, px, px] of any size to logits [n, num_classes].

    RepVGG has the state-dict keys of the official code. `form` is `train` (branches) or `deploy`: for a RepVGG one 3x3
    convolution a layer (section 3.3), for a baseline every conv-BN pair folded (section 4.1). `width` scales all
    channel counts and is 1 for the paper's network. Works under `torch.device("meta")`. Raises CompanionError for an
    unknown name, form or width, and for the deploy form of a network that has none.
    """
    require_kind(name, str, "the name of a network", "one such as 'RepVGG-A0'")
    require_kind(num_classes, int, "num_classes", "a whole number of at least 1")
    require_kind(width, (int, float), "width", "a number above 0, and 1 for the paper's width")
    if form not in FORMS:
        raise CompanionError(f"form {form!r} is unknown; use one of {', '.join(FORMS)}")
    spec = require_model(name) if form == "train" else require_convertible(name)
    if num_classes < 1:
        raise CompanionError(f"{name} with {num_classes} classes cannot be built; give at least 1 class")
    model = _build(spec, num_classes, width, form == "deploy")
    return model.train()


def _build(spec: ModelSpec, num_classes: int, width: float, deploy: bool) -> nn.Module:
    if spec.family == "RepVGG":
        widths = stage_widths(spec.a, spec.b, width)
        if spec.block == "residual-reorg":
            if spec.strides != ModelSpec.strides:
                raise CompanionError(f"{spec.name}: the strides of Residual Reorg cannot be set; use another variation")
            return ResidualReorg(spec.layers, widths, num_classes=num_classes, groups=spec.groups)
        return RepVGG(
            spec.layers,
            widths,
            num_classes=num_classes,
            groups=spec.groups,
            squeeze_excitation=spec.squeeze_excitation,
            block=spec.block,
            deploy=deploy,
            strides=spec.strides,
        )
    if spec.family in ("ResNet", "ResNeXt"):
        model: nn.Module = build_resnet(spec, num_classes, width, deploy)
    elif spec.family == "PSPNet":
        from repvgg_companion.models.pspnet import build_pspnet

        model = build_pspnet(spec, num_classes, width, deploy)
    else:
        from repvgg_companion.models.torchvision_baselines import build_baseline

        model = build_baseline(spec, num_classes, width)
    return fold_batch_norms(model) if deploy else model
