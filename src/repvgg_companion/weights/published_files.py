"""Names, places and digests of the weights that the authors and timm publish. Needs no torch."""

import hashlib
from pathlib import Path

from repvgg_companion.errors import CompanionError
from repvgg_companion.files import READ_BYTES, read_sums
from repvgg_companion.models.names import REPVGG_MODELS, require_model

SUMS_FILE = "SHA256SUMS"

# Released by the authors (README of DingXiaoH/RepVGG). B2g4, B3 and B3g4 are the 200-epoch models of Table 5; the
# 120-epoch B2g4 of Table 4 was never released, and neither were B2g2 and B3g2.
OFFICIAL_FILES: dict[str, str] = {
    **{f"RepVGG-{x}": f"RepVGG-{x}-train.pth" for x in ("A0", "A1", "A2", "B0", "B1", "B1g2", "B1g4", "B2")},
    **{f"RepVGG-{x}": f"RepVGG-{x}-200epochs-train.pth" for x in ("B2g4", "B3", "B3g4", "D2se")},
}
_ALSO_NAMED = {"RepVGG-B2g4-train.pth": "RepVGG-B2g4"}

# SHA-384 of the authors' files, from the model descriptions of OpenVINO's open model zoo (a third party; the authors
# publish no digests).
PUBLISHED_DIGESTS = {
    "RepVGG-A0-train.pth": (
        "7efb6b28b0376d80753c86b43687b38f2a7ae94f3ef58552b602a55767b4187dbb7b1fe8770b16133427c93e6cf137d7"
    ),
    "RepVGG-B1-train.pth": (
        "23d9bea60e7bf0c184e0ec273ac228cda6ee8afcd4abe734cd1b02ca48253143000b41e299124601252a4498fe6ba379"
    ),
    "RepVGG-B3-200epochs-train.pth": (
        "647371bdfad380c1001d16c2dae0cd244974b11b2464933f7508c1ae3e82976eab2e0f940a5192a3a75db7363d0e8db4"
    ),
}

# timm publishes all but the g2 models; b2g4, b3 and b3g4 are the 200-epoch weights.
TIMM_NAMES: dict[str, str] = {
    name: f"repvgg_{name.removeprefix('RepVGG-').lower()}" for name in REPVGG_MODELS if not name.endswith("g2")
}
TIMM_FILE = "model.safetensors"


def timm_repository(model: str) -> str:
    """The Hugging Face repository of timm's weights for `model`.

    Raises CompanionError if timm has none, with the place of the authors' file.
    """
    require_model(model)
    if model in TIMM_NAMES:
        return f"timm/{TIMM_NAMES[model]}.rvgg_in1k"
    if model in OFFICIAL_FILES:
        raise CompanionError(
            f"timm publishes no weights of {model}; download {OFFICIAL_FILES[model]} through the links in the README "
            "of github.com/DingXiaoH/RepVGG and check it with 'weights inspect'"
        )
    raise CompanionError(
        f"no weights of {model} were ever released; models that can be fetched: {', '.join(TIMM_NAMES)}"
    )


def model_of_file_name(path: str | Path) -> str | None:
    """The model whose released file has this name; None for any other name."""
    name = Path(path).name
    return _ALSO_NAMED.get(name) or next((model for model, file in OFFICIAL_FILES.items() if file == name), None)


def expected_digest(path: str | Path) -> tuple[str, str, str] | None:
    """Algorithm, digest and source of what a file must have: from `SHA256SUMS` beside it, or as published."""
    path = Path(path)
    if digest := read_sums(path.with_name(SUMS_FILE)).get(path.name):
        return "sha256", digest, str(path.with_name(SUMS_FILE))
    if path.name in PUBLISHED_DIGESTS:
        return "sha384", PUBLISHED_DIGESTS[path.name], "OpenVINO's open model zoo"
    return None


def check_digest(path: str | Path) -> tuple[str, str]:
    """SHA-256 of a file, and in words what its digest was compared with.

    Raises CompanionError naming the file if it is missing or differs from the digest known for it.
    """
    path = Path(path)
    expected = expected_digest(path)
    hashers = {"sha256": hashlib.sha256()}
    if expected:
        hashers.setdefault(expected[0], hashlib.new(expected[0]))
    try:
        with path.open("rb") as stream:
            while block := stream.read(READ_BYTES):
                for hasher in hashers.values():
                    hasher.update(block)
    except FileNotFoundError:
        raise CompanionError(f"{path} does not exist; correct the path") from None
    except IsADirectoryError:
        raise CompanionError(f"{path} is a folder; name the weights file in it") from None
    sha256 = hashers["sha256"].hexdigest()
    if expected is None:
        return sha256, "no digest is known for a file of this name"
    algorithm, digest, source = expected
    found = hashers[algorithm].hexdigest()
    if found != digest:
        raise CompanionError(
            f"{path} has {algorithm} {found[:16]}... instead of {digest[:16]}... ({source}): it is "
            "damaged or another file; use an undamaged copy, or give it another name if it is your own"
        )
    return sha256, f"{algorithm} as in {source}"
