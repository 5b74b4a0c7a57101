"""Map the keys of a state dict from one layout to another.

Layouts: `official` (`repvgg.py` of the authors, and the companion's own), `timm` (`byobnet.py`), `mmpretrain`
(`backbones/repvgg.py`). Keys are mapped by name, never by order, and tensors are not touched.
"""

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from repvgg_companion.errors import CompanionError

Value = TypeVar("Value")
LAYOUTS = ("official", "timm", "mmpretrain")

# Names inside a block, official, timm, mmpretrain; the first that fits the front of the key is taken.
_IN_BLOCK = (
    ("rbr_dense.conv", "conv_kxk.conv", "branch_3x3.conv"),
    ("rbr_dense.bn", "conv_kxk.bn", "branch_3x3.norm"),
    ("rbr_1x1.conv", "conv_1x1.conv", "branch_1x1.conv"),
    ("rbr_1x1.bn", "conv_1x1.bn", "branch_1x1.norm"),
    ("rbr_identity", "identity", "branch_norm"),
    ("rbr_reparam", "reparam_conv", "branch_reparam"),
    ("se.down", "attn.fc1", "se_layer.conv1.conv"),
    ("se.up", "attn.fc2", "se_layer.conv2.conv"),
)
_HEAD = ("linear", "head.fc", "head.fc")
_LEAF = r"(?P<leaf>weight|bias|running_mean|running_var|num_batches_tracked)"
_BLOCK = {
    "official": re.compile(r"(?P<stem>stage0)\.|stage(?P<stage>[1-4])\.(?P<index>\d+)\."),
    "timm": re.compile(r"(?P<stem>stem)\.|stages\.(?P<stage>[0-3])\.(?P<index>\d+)\."),
    "mmpretrain": re.compile(r"(?P<stem>backbone\.stem)\.|backbone\.stage_(?P<stage>[1-4])\.(?P<index>\d+)\."),
}


def _to_official(key: str, layout: str) -> str | None:
    """The official key of a key of `layout`; None if the layout has no such key."""
    column = LAYOUTS.index(layout)
    if head := re.fullmatch(re.escape(_HEAD[column]) + r"\.(weight|bias)", key):
        return f"{_HEAD[0]}.{head[1]}"
    match = _BLOCK[layout].match(key)
    if match is None:
        return None
    block = "stage0"
    if match["stem"] is None:
        block = f"stage{int(match['stage']) + (layout == 'timm')}.{match['index']}"
    rest = key[match.end() :]
    for names in _IN_BLOCK:
        if leaf := re.fullmatch(re.escape(names[column]) + r"\." + _LEAF, rest):
            return f"{block}.{names[0]}.{leaf['leaf']}"
    return None


def _from_official(key: str, layout: str) -> str:
    column = LAYOUTS.index(layout)
    if key.startswith(f"{_HEAD[0]}."):
        return _HEAD[column] + key.removeprefix(_HEAD[0])
    match = _BLOCK["official"].match(key)
    if match is None:
        raise ValueError(f"{key} is not an official key")
    rest = key[match.end() :]
    for names in _IN_BLOCK:
        if rest.startswith(f"{names[0]}."):
            rest = names[column] + rest.removeprefix(names[0])
            break
    if match["stem"] is not None:
        block = {"official": "stage0", "timm": "stem", "mmpretrain": "backbone.stem"}[layout]
    else:
        stage, index = int(match["stage"]), match["index"]
        block = {
            "official": f"stage{stage}.{index}",
            "timm": f"stages.{stage - 1}.{index}",
            "mmpretrain": f"backbone.stage_{stage}.{index}",
        }[layout]
    return f"{block}.{rest}"


def detect_layout(keys: Iterable[str]) -> str | None:
    """The layout that knows most of the keys; None if no layout knows any."""
    keys = list(keys)
    known = {layout: sum(_to_official(key, layout) is not None for key in keys) for layout in LAYOUTS}
    best = max(LAYOUTS, key=known.__getitem__)
    return best if known[best] else None


def detect_form(official_keys: Iterable[str]) -> str:
    """`deploy` if the blocks hold `rbr_reparam`, else `train`. Raises CompanionError if a file mixes the two."""
    keys = list(official_keys)
    deploy = any(".rbr_reparam." in key for key in keys)
    if deploy and any(".rbr_dense." in key for key in keys):
        raise CompanionError("the file mixes blocks in train form and blocks in deploy form; export it from one model")
    return "deploy" if deploy else "train"


def to_official(state: Mapping[str, Value], layout: str) -> tuple[dict[str, Value], list[str]]:
    """The tensors under official keys, and the keys that `layout` does not know."""
    mapped, unknown = {}, []
    for key, value in state.items():
        official = _to_official(key, layout)
        if official is None:
            unknown.append(key)
        else:
            mapped[official] = value
    return mapped, unknown


def from_official(state: Mapping[str, Value], layout: str) -> dict[str, Value]:
    """The tensors under the keys of `layout`; the inverse of `to_official`, for either form."""
    return {_from_official(key, layout): value for key, value in state.items()}
