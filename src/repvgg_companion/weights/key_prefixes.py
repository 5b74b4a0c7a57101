"""Remove what trainers and larger models put in front of the keys of a RepVGG."""

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from repvgg_companion.errors import CompanionError

# Added to every key by DataParallel, torch.compile and weight averaging.
_WRAPPER = re.compile(r"(?:module\.|_orig_mod\.)+")
_MODEL = re.compile(
    r"(?:model|net)\.(?=(?:module\.|_orig_mod\.)*(?:stage\d|stages\.|stem\.|backbone\.|linear\.|head\.))"
)
# What is in front of the first layer of any layout; mmpretrain's own keys begin with `backbone.`.
_BEFORE_STEM = re.compile(
    r"(.*?)(?:stage0\.rbr_|backbone\.stem\.branch_|stem\.(?:conv_kxk|conv_1x1|identity|reparam_conv)\.)"
)


def bare_names(tensors: Mapping[str, Tensor], path: object, prefix: str = "") -> tuple[dict[str, Tensor], str]:
    """The tensors of one RepVGG under keys without a prefix, and the prefix that was removed.

    With `prefix`, only the tensors below it are taken. Without, a prefix such as `backbone.` is removed if all keys
    have it. Raises CompanionError with the prefixes that were found if `prefix` must be chosen.
    """
    stripped = strip_prefixes(tensors)
    found = _prefixes(stripped)
    if prefix:
        chosen = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        chosen = chosen or {key.removeprefix(prefix): stripped[key] for key in stripped if key.startswith(prefix)}
        if not chosen:
            hint = _choices([name for name in found if name]) or "no prefix"
            raise CompanionError(f"{path} has no keys that begin with {prefix!r}; give {hint}")
        return strip_prefixes(chosen), prefix
    if not found or "" in found:
        return stripped, ""
    (first, *others) = found
    outside = [key for key in stripped if not key.startswith(first)]
    if not others and not outside:
        return {key.removeprefix(first): tensor for key, tensor in stripped.items()}, first
    beside = f" beside {len(outside)} other tensors ({', '.join(outside[:3])})" if not others else ""
    raise CompanionError(
        f"{path} holds a RepVGG under the prefix {' and one under '.join(map(repr, found))}{beside}; give "
        f"{_choices(found)} to read it alone"
    )


def _choices(prefixes: Sequence[str]) -> str:
    """The prefixes as options of the command line and as arguments of Python; empty if there is none."""
    options, arguments = (
        " or ".join(form.format(name) for name in prefixes) for form in ("--prefix {}", "prefix={!r}")
    )
    return f"{options} (in Python {arguments})" if prefixes else ""


def _prefixes(keys: Iterable[str]) -> list[str]:
    """The different texts in front of the first layer of a RepVGG, in order of the keys."""
    return list(dict.fromkeys(match[1] for key in keys if (match := _BEFORE_STEM.match(key))))


def strip_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove `module.` and `_orig_mod.` at the front of keys, also after a front `model.` or `net.`.

    The step counter of averaged weights (`n_averaged`) is left out. Raises CompanionError if two keys become one.
    """
    stripped: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key == "n_averaged":
            continue
        name = _without(_WRAPPER, _without(_MODEL, _without(_WRAPPER, key)))
        if name in stripped:
            raise CompanionError(f"the file holds {name} twice, with and without a prefix; save one state dict only")
        stripped[name] = tensor
    return stripped


def _without(prefix: re.Pattern[str], key: str) -> str:
    match = prefix.match(key)
    return key[match.end() :] if match else key
