"""Recognise networks that are close to a RepVGG of the companion but cannot be read as one."""

import re
from collections.abc import Mapping

from torch import Tensor

from repvgg_companion.errors import CompanionError

# Names inside a block, in any of the layouts.
_FUSED = re.compile(r"(?:rbr_reparam|reparam_conv|branch_reparam)\.")
_BRANCH = re.compile(r"(?:rbr_dense|conv_kxk|branch_3x3)\.")
_PLUS = re.compile(r"post_se\.|stage3_(?:first|second)\.|stage\d(?:_first)?_aux\.")
_STEM = re.compile(
    r"(?:stage0\.rbr_(?:dense\.conv|reparam)|stem\.(?:conv_kxk\.conv|reparam_conv)"
    r"|backbone\.stem\.(?:branch_3x3\.conv|branch_reparam))\.weight"
)


def require_no_relative(tensors: Mapping[str, Tensor], path: object) -> None:
    """Raise CompanionError for a RepVGGplus, fused blocks with batch norms, or an input of other than three channels.

    The error names what was found. Keys are without prefixes.
    """
    plus = next((key for key in tensors if _PLUS.search(key)), None)
    if plus is not None:
        raise CompanionError(
            f"{path} holds a RepVGGplus ({plus}), a later network of the authors that is not in the paper; name the "
            "weights of a RepVGG"
        )
    norm = next((key for key in tensors if key.endswith("running_mean")), None)
    if norm and any(map(_FUSED.search, tensors)) and not any(map(_BRANCH.search, tensors)):
        raise CompanionError(
            f"{path} is in deploy form but has batch norms ({norm.removesuffix('.running_mean')}), as added for "
            "quantization-aware training; fold them into the convolutions, or name a file saved before they were added"
        )
    stem = next((key for key in tensors if _STEM.fullmatch(key)), None)
    if stem and tensors[stem].dim() == 4 and tensors[stem].shape[1] != 3:
        channels = tensors[stem].shape[1]
        images = "grey images" if channels == 1 else f"images of {channels} channels"
        shape = list(tensors[stem].shape)
        raise CompanionError(
            f"{path} is a network for {images} ({stem} is {shape}); name the weights of a network for RGB images"
        )
