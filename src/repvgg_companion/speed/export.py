"""The `export` verb: a deploy file as an ONNX model or a torch.export program, checked.

The certificate's three checks on the file that was written, read back: (a) its graph in float64 gives the network's
logits to 1e-10, (b) every weight in it equals the deploy file's bit for bit, (c) the float32 error and changed
predictions. A file that fails (a) or (b), or whose float32 error is larger than rounding explains, is not kept.

An ONNX file takes any number of images of any size, and its metadata say what it is: network, digests, class names and
preprocessing. Its float32 check includes a batch of another, non-square size.
"""

import argparse
import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from repvgg_companion.errors import CompanionError
from repvgg_companion.files import atomic_path, canonical_json, read_json, sha256_of_file
from repvgg_companion.identity import WeightsIdentity
from repvgg_companion.models.names import require_model

FLOAT32_LIMIT = 1e-4
INPUT, OUTPUT = "images", "outputs"
OF_ONE_SIZE = ("PSPNet", "VGG")
"""Families whose pooling to more than one value ties the ONNX graph to one input size; the batch stays free."""


@dataclass(frozen=True)
class ExportCheck:
    """What the check of an exported graph found."""

    format: str
    float64_max_relative_error: float
    weights_match: bool
    float32_max_relative_error: float
    prediction_flips: int
    n_inputs: int

    @property
    def passed(self) -> bool:
        """Whether the exported graph computes the network's function."""
        from repvgg_companion.reparameterization.agreement import MAX_FLOAT64_RELATIVE_ERROR

        return (
            self.weights_match
            and self.float64_max_relative_error <= MAX_FLOAT64_RELATIVE_ERROR
            and self.float32_max_relative_error <= FLOAT32_LIMIT
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `export` verb."""
    parser.add_argument("--weights", required=True, help="deploy.safetensors of this companion")
    parser.add_argument("--output", required=True, help="NAME.onnx, or NAME.pt2 for torch.export")
    parser.add_argument("--input-px", type=int, help="side of the input; without it that of the training")
    parser.add_argument("--inputs", type=int, default=8, help="random images for the check")


def run(arguments: argparse.Namespace) -> None:
    """Export, check and report."""
    check = export(arguments.weights, arguments.output, input_px=arguments.input_px, n_inputs=arguments.inputs)
    print(", ".join(f"{name} {value}" for name, value in asdict(check).items()) + f", passed {check.passed}")


def export(weights: str | Path, output: str | Path, *, input_px: int | None = None, n_inputs: int = 8) -> ExportCheck:
    """Export `weights` to `output`, a torch.export program for batches of one; returns the check.

    Raises CompanionError if the file is not a deploy file, the format is unknown, a package is missing, or the check
    fails; nothing is left under the final name then.
    """
    import torch

    from repvgg_companion.models.load_form import load_form
    from repvgg_companion.weights_file import load_weights

    suffix = Path(output).suffix
    if suffix not in (".onnx", ".pt2"):
        raise CompanionError(f"{output}: the suffix decides the format; name the output .onnx or .pt2")
    state, identity = load_weights(weights)
    if identity.form != "deploy":
        raise CompanionError(f"{weights} is in {identity.form} form; export the deploy file beside it")
    module = load_form(identity, "deploy", state, dtype=torch.float32, device="cpu", what=weights)
    module.requires_grad_(False)
    px = input_px or identity.input_px
    images = torch.randn(n_inputs, 3, px, px, generator=torch.Generator().manual_seed(0))
    with atomic_path(output) as temporary, torch.no_grad():
        if suffix == ".pt2":
            torch.export.save(torch.export.export(module, (images[:1],)), temporary)
            check = check_program(module, torch.export.load(temporary), images)
        else:
            axes = {0: "batch"}
            if require_model(identity.model).family not in OF_ONE_SIZE:
                axes |= {2: "height", 3: "width"}
            _write_onnx(module, images[:1], temporary, axes)
            describe(temporary, onnx_metadata(Path(weights), identity))
            check = check_onnx(module, temporary, images, others=_other_images(images, len(axes) > 1))
        if not check.passed:
            raise CompanionError(
                f"{output}: the exported graph is not the network of {weights} ({check}); it was removed, report this "
                "with the versions of torch and onnx"
            )
    return check


def check_program(module: Any, program: Any, images: Any) -> ExportCheck:
    """The three checks of a torch.export program, read back from its file."""
    import torch

    state = module.state_dict()
    stored = program.state_dict
    match = set(stored) == set(state) and all(torch.equal(stored[name], state[name]) for name in state)
    outputs = torch.cat([program.module()(image[None]) for image in images])
    exact = copy.deepcopy(program.module()).double()
    double = torch.cat([exact(image[None].double()) for image in images])
    return _check(module, images, _Exported("torch.export", match, outputs, double))


def check_onnx(module: Any, path: str | Path, images: Any, others: Any = None) -> ExportCheck:
    """The three checks of an ONNX file.

    Its float64 logits, of the first two images, are those of ONNX's own reference implementation with every float32 of
    the graph made a float64; its float32 logits are those of ONNX Runtime. `others` is one batch of another size, which
    counts in float32 too.
    """
    import numpy as np
    import onnx
    import torch
    from onnx import numpy_helper

    try:
        import onnxruntime
    except ImportError:
        raise CompanionError(
            "onnxruntime is not installed, so the ONNX file cannot be checked; install the extra 'backends'"
        ) from None
    model = onnx.load(str(path))
    onnx.checker.check_model(model)
    stored = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    digests = {(array.shape, array.tobytes()) for array in stored}

    def found(tensor: Any) -> bool:
        array = np.ascontiguousarray(tensor.numpy())
        # A linear layer may be written with its matrix turned around, and a bias of zeros may be left out.
        turned = np.ascontiguousarray(array.T) if array.ndim == 2 else array
        zeros = array.ndim == 1 and not array.any()
        return (array.shape, array.tobytes()) in digests or (turned.shape, turned.tobytes()) in digests or zeros

    match = all(found(tensor) for tensor in module.state_dict().values())
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    outputs = torch.cat([torch.from_numpy(session.run(None, {name: image[None].numpy()})[0]) for image in images])
    double = torch.from_numpy(_onnx_in_float64(model, [image[None].double().numpy() for image in images[:2]]))
    batch = None if others is None else (others, torch.from_numpy(session.run(None, {name: others.numpy()})[0]))
    return _check(module, images, _Exported("onnx", match, outputs, double, batch))


def _other_images(images: Any, any_size: bool) -> Any:
    """A batch of all images; where the size is free, higher than wide."""
    import torch

    return torch.cat([images, images[:, :, : images.shape[2] // 2]], dim=2) if any_size else images


def onnx_metadata(weights: Path, identity: WeightsIdentity) -> dict[str, str]:
    """What the metadata of an ONNX file say; lists and tables are JSON.

    Class names and preprocessing are those of the `config.json` beside the weights. Without it the names are known for
    ImageNet only. Raises CompanionError if that file is about other weights.
    """
    from repvgg_companion.api import class_names
    from repvgg_companion.data.batches.normalize import MEAN, STD

    sha256 = sha256_of_file(weights)
    facts: Mapping[str, Any] = {}
    config = weights.with_name("config.json")
    if config.is_file():
        facts = read_json(config)
        if facts.get("files", {}).get("deploy", {}).get("sha256") != sha256:
            raise CompanionError(
                f"{config} is about other weights than {weights}; run the experiment again, or move it"
            )
    elif (identity.dataset, identity.num_classes) == ("imagenet", 1000):
        facts = {"classes": class_names()}
    prepared = {"channels": "RGB", "scale": "0 to 1", "mean": MEAN, "std": STD, "crop_px": identity.input_px}
    metadata = {
        "model": identity.model,
        "width": f"{identity.width:g}",
        "dataset": identity.dataset,
        "recipe": identity.recipe,
        "training_digest": identity.training_digest,
        "weights_sha256": sha256,
        "preprocessing": canonical_json(facts.get("preprocessing", prepared)),
    }
    if "classes" in facts:
        metadata["class_names"] = json.dumps(facts["classes"], ensure_ascii=False)
    return metadata


def describe(path: Path, metadata: Mapping[str, str]) -> None:
    """Put `metadata` into an ONNX file."""
    import onnx

    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, dict(metadata))
    path.write_bytes(model.SerializeToString())


def _onnx_in_float64(model: Any, inputs: list[Any]) -> Any:
    """The first output of an ONNX model for each input [1, 3, H, W], computed in float64 by the reference operators."""
    import numpy as np
    from onnx import TensorProto, numpy_helper
    from onnx.reference import ReferenceEvaluator

    graph = model.graph
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    evaluator = ReferenceEvaluator(model)
    name = graph.input[0].name
    outputs: list[Any] = [evaluator.run(None, {name: images}) for images in inputs]
    return np.concatenate([first for first, *_ in outputs])


def _write_onnx(module: Any, images: Any, path: Path, axes: dict[int, str]) -> None:
    from repvgg_companion.speed.engines import Unavailable, onnx_bytes

    try:
        path.write_bytes(onnx_bytes(module, images, {INPUT: axes, OUTPUT: {0: "batch"}}))
    except Unavailable as error:
        raise CompanionError(str(error)) from None


@dataclass(frozen=True)
class _Exported:
    """A graph read back: do its weights match, its float32 logits of all images, its float64 logits of the first.

    `batch` is another batch and its float32 logits.
    """

    format: str
    weights_match: bool
    outputs: Any
    double: Any
    batch: tuple[Any, Any] | None = None


def _check(module: Any, images: Any, exported: _Exported) -> ExportCheck:
    """Compare an exported graph with the network that it was made of."""
    expected = module(images)
    errors = [_relative(exported.outputs, expected)]
    if exported.batch is not None:
        others, outputs = exported.batch
        errors.append(_relative(outputs, module(others)))
    reference = copy.deepcopy(module).double()(images[: len(exported.double)].double())
    return ExportCheck(
        format=exported.format,
        float64_max_relative_error=_relative(exported.double, reference),
        weights_match=exported.weights_match,
        float32_max_relative_error=max(errors),
        prediction_flips=int((exported.outputs.argmax(1) != expected.argmax(1)).sum()),
        n_inputs=len(images),
    )


def _relative(ours: Any, reference: Any) -> float:
    return float((ours - reference).abs().max() / reference.abs().max())
