"""The companion from Python: `import repvgg_companion as rc` offers these names, and loads torch when one is used.

Five lines from a weights file, or the name of released weights, to a prediction:

    network = rc.load("RepVGG-A0")
    image = rc.transform("resize256-crop224-bilinear-pillow")("cat.jpg")
    print(rc.class_names()[network(image[None]).argmax()])

Nothing here trains; `python -m repvgg_companion train` does.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from repvgg_companion.data.batches.evaluation_input import decode_evaluation_image, evaluation_image
from repvgg_companion.data.batches.normalize import normalize
from repvgg_companion.data.decode import UndecodableImage
from repvgg_companion.data.manifest import Manifest
from repvgg_companion.data.protocols import EvaluationProtocol
from repvgg_companion.errors import CompanionError, one_line, require_kind
from repvgg_companion.files import read_json
from repvgg_companion.identity import FORMS
from repvgg_companion.models.blocks import RepVGGBlock
from repvgg_companion.models.build import build_model
from repvgg_companion.models.load_form import load_form
from repvgg_companion.reparameterization.agreement import compare
from repvgg_companion.reparameterization.convert import convert_model, fuse_block, one_thread
from repvgg_companion.weights.fetch import fetch
from repvgg_companion.weights.published_files import TIMM_NAMES
from repvgg_companion.weights.recognize import companion_identity, recognize
from repvgg_companion.weights.writing import identity_of
from repvgg_companion.weights_file import WEIGHTS_SUFFIXES, is_weights_file, load_weights

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["RepVGGBlock", "build", "certify", "class_names", "convert", "load", "transform"]

build = build_model

_FILE = (str, Path)


def load(
    source: str | Path,
    *,
    form: str = "deploy",
    prefix: str = "",
    model: str | None = None,
    folder: str | Path = "data/released",
) -> nn.Module:
    """A network with trained weights, in eval mode, float32, on the CPU.

    `source` is a weights file of this companion, the authors, timm or mmpretrain, or the name of a RepVGG that timm
    publishes: it is fetched into `folder` once. `form` is `deploy` (train weights are converted) or `train`. `prefix`
    is what the keys of the RepVGG inside a larger model begin with, such as `backbone.`. `model` names the network that
    the file must hold; an own network needs it where its file is in another layout and names none. Raises
    CompanionError if the file cannot be used or has no such form.
    """
    require_kind(source, _FILE, "source", "the path of a weights file or the name of released weights")
    require_kind(prefix, str, "prefix", "the text that the keys begin with")
    require_kind(model, (str, type(None)), "model", "the name of a network")
    require_kind(folder, _FILE, "folder", "the path of a folder")
    if form not in FORMS:
        raise CompanionError(f"form {form!r} is unknown; use one of {', '.join(FORMS)}")
    path = Path(source)
    if not path.exists() and _is_model_name(str(source)):
        path = fetch(str(source), folder)  # names the nearest models where there is none of this name
    if not prefix and model is None and companion_identity(path) is not None:
        state, identity = load_weights(path)
    else:
        weights = recognize(path, model=model, prefix=prefix)
        state, identity = weights.state, identity_of(weights, "imagenet")
    if form == "train" and identity.form == "deploy":
        raise CompanionError(f"{path} holds the deploy form, whose branches are lost; load it with form 'deploy'")
    if form != identity.form:
        state = convert_model(
            identity.model, state, num_classes=identity.num_classes, width=identity.width, dtype=torch.float32
        )
    return load_form(identity, form, state, dtype=torch.float32, device="cpu", what=path)


def _is_model_name(source: str) -> bool:
    return source in TIMM_NAMES or (
        source.lower().startswith("repvgg") and "/" not in source and not source.endswith(WEIGHTS_SUFFIXES)
    )


@one_thread()
def convert(module: nn.Module) -> nn.Module:
    """A copy of `module` in eval mode in which every RepVGG block is one 3x3 convolution and a ReLU (section 3.3).

    `module` may be any network that contains `RepVGGBlock`s, such as a detector with a RepVGG as its backbone; all
    other layers are copied. Kernels are computed in float64 and rounded once. Raises CompanionError if there is no
    block in train form, or one with a ReLU in its branches.
    """
    require_kind(module, nn.Module, "module", "a network, a torch.nn.Module such as rc.load returns")
    blocks = {
        path: block for path, block in module.named_modules() if isinstance(block, RepVGGBlock) and not block.deploy
    }
    if not blocks:
        raise CompanionError(
            f"{type(module).__name__} contains no RepVGG block in train form; there is nothing to convert"
        )
    converted = copy.deepcopy(module).eval()
    for path, block in blocks.items():
        deployed = _deploy_block(block)
        if not path:
            return deployed
        parent, _, name = path.rpartition(".")
        setattr(converted.get_submodule(parent), name, deployed)
    return converted


def _deploy_block(block: RepVGGBlock) -> RepVGGBlock:
    dense = block.rbr_dense.conv
    deployed = RepVGGBlock(
        block.in_channels,
        block.out_channels,
        stride=block.stride,
        groups=block.groups,
        dilation=int(dense.dilation[0]),
        deploy=True,
    ).to(dense.weight.device)
    kernel, bias = fuse_block(block, block.state_dict(), dtype=dense.weight.dtype)
    deployed.rbr_reparam.weight, deployed.rbr_reparam.bias = nn.Parameter(kernel), nn.Parameter(bias)
    deployed.se = copy.deepcopy(block.se)
    return deployed.eval()


@dataclass(frozen=True)
class FormComparison:
    """How far two forms differ: in float64 relative to the largest output, and images whose class changes."""

    float64_max_relative_error: float
    prediction_flips: int
    n_inputs: int
    passed: bool
    """Whether the forms compute the same function: check (a) of a certificate."""


def certify(train: nn.Module, images: Tensor, deploy: nn.Module | None = None) -> FormComparison:
    """Compare a network in train form with its conversion on images [n, channels, h, w], both in float64.

    Compares `train` with what `convert` makes of it in float64, or with `deploy`. A `deploy` whose weights were rounded
    to float32 differs by about 1e-7 and does not pass. Each network must return one tensor [n, classes, ...].
    Raises CompanionError if a network cannot be run on the images.
    """
    require_kind(train, nn.Module, "train", "a network, a torch.nn.Module in train form")
    require_kind(deploy, (nn.Module, type(None)), "deploy", "a network, a torch.nn.Module, or None")
    require_kind(images, Tensor, "images", "a tensor [n, channels, h, w]")
    if images.dim() != 4 or not images.numel():
        raise CompanionError(
            f"images have the shape {list(images.shape)}; give [n, channels, h, w] of at least 1 image"
        )
    exact = copy.deepcopy(train).double().eval()
    other = convert(exact) if deploy is None else copy.deepcopy(deploy).double().eval()
    try:
        agreement = compare(exact, other, images)
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise CompanionError(
            f"{type(train).__name__} cannot be compared on images of shape {list(images.shape)} ({one_line(error)}); "
            "give images of the network's channels, and networks that return one tensor [n, classes, ...]"
        ) from error
    return FormComparison(
        agreement.max_relative_error, agreement.prediction_flips, len(images), agreement.is_one_function
    )


def transform(protocol: str) -> "Callable[[str | Path | bytes | Image], Tensor]":
    """A function from an image (path, bytes or Pillow image) to float32 [3, px, px], as the evaluation does it.

    `protocol` is a label such as `resize256-crop224-bilinear-pillow`. The function raises CompanionError if the file is
    missing or is not an image.
    """
    require_kind(protocol, str, "protocol", "a label such as 'resize256-crop224-bilinear-pillow'")
    parsed = EvaluationProtocol.parse(protocol)

    def prepare(image: "str | Path | bytes | Image") -> Tensor:
        if isinstance(image, str | Path | bytes):
            try:
                data = image if isinstance(image, bytes) else Path(image).read_bytes()
            except OSError as error:
                raise CompanionError(f"{error.filename}: {error.strerror}; name an image file") from None
            try:
                pixels = decode_evaluation_image(data, parsed)
            except UndecodableImage as error:
                what = "the image" if isinstance(image, bytes) else image
                raise CompanionError(f"{what} cannot be decoded ({error}); give a JPEG, PNG or another image") from None
        else:
            from PIL.Image import Image

            require_kind(image, Image, "the image", "a path, bytes or a Pillow image")
            try:
                pixels = evaluation_image(image.convert("RGB"), parsed)
            except OSError as error:
                raise CompanionError(f"the image cannot be decoded ({error}); give an undamaged one") from None
        return normalize(pixels.permute(2, 0, 1)[None], device="cpu")[0]

    return prepare


def class_names(source: str | Path | None = None) -> list[str]:
    """The name of each class in label order: of ImageNet's 1000 classes, or those that a file lists.

    `source` is a weights file with a `config.json` beside it, that `config.json`, or a manifest that `index` wrote.
    """
    if source is None:
        from torchvision.models import ResNet18_Weights

        return list(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
    require_kind(source, _FILE, "source", "the path of a config.json or of a manifest")
    if Path(source).is_dir():
        raise CompanionError(f"{source} is a folder; name the config.json beside the weights, or a manifest")
    if Path(source).is_file() and is_weights_file(source):
        beside = Path(source).with_name("config.json")
        if not beside.is_file():
            raise CompanionError(
                f"{source} is a weights file without a config.json beside it; name the config.json, or a manifest"
            )
        source = beside
    if not Path(source).exists():
        raise CompanionError(f"{source} does not exist; name the config.json beside the weights, or a manifest")
    if Path(source).suffix != ".json":
        return list(Manifest.read(source).class_names)
    facts = read_json(source)
    if not isinstance(facts, dict) or not isinstance(facts.get("classes"), list):
        raise CompanionError(f"{source} lists no classes; name the config.json beside the weights, or a manifest")
    return [str(name) for name in facts["classes"]]
