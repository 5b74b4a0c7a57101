"""Names, digests and weights files."""

import dataclasses

import pytest
import torch

from repvgg_companion.errors import CompanionError
from repvgg_companion.files import sha256_of_file
from repvgg_companion.identity import WeightsIdentity, split_model_name, training_digest
from repvgg_companion.weights_file import load_weights, save_weights

BASE = {"model": "RepVGG-A0", "width": 1.0, "num_classes": 1000, "dataset": "imagenet", "recipe": {"epochs": 120}}
IDENTITY = WeightsIdentity(
    dataset="d", dataset_sha256="0" * 64, model="RepVGG-A0", width=0.25, num_classes=10, recipe="r",
    training_digest="01234567", seed="0", input_px=32,
)  # fmt: skip


def test_names_split_into_base_and_variation():
    assert split_model_name("RepVGG-B0_identity-only") == ("RepVGG-B0", "identity-only")
    assert split_model_name("RepVGG-A0") == ("RepVGG-A0", "")
    for wrong in ("RepVGG/A0", "a_b_c", "", "../x"):
        with pytest.raises(CompanionError):
            split_model_name(wrong)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "RepVGG-A1"},
        {"width": 0.5},
        {"num_classes": 10},
        {"dataset": "other"},
        {"recipe": {"epochs": 121}},
        {"backbone": "random"},
    ],
)
def test_the_training_digest_covers_everything(change):
    assert training_digest(**{**BASE, **change}) != training_digest(**BASE)


def test_the_training_digest_is_stable():
    assert training_digest(**BASE) == training_digest(**{**BASE, "width": 1, "recipe": {"epochs": 120.0}})
    assert training_digest(**BASE) == "b75cd494"


def test_the_same_weights_give_the_same_bytes(tmp_path):
    state = {name: torch.randn(3, 4) for name in ("b", "a", "c")}
    save_weights(tmp_path / "1.safetensors", state, IDENTITY)
    save_weights(tmp_path / "2.safetensors", dict(reversed(state.items())), IDENTITY)
    assert sha256_of_file(tmp_path / "1.safetensors") == sha256_of_file(tmp_path / "2.safetensors")
    loaded, identity = load_weights(tmp_path / "1.safetensors")
    assert identity == IDENTITY and all(torch.equal(loaded[name], state[name]) for name in state)
    save_weights(tmp_path / "3.safetensors", state, dataclasses.replace(IDENTITY, seed="1"))
    assert sha256_of_file(tmp_path / "1.safetensors") != sha256_of_file(tmp_path / "3.safetensors")


def test_foreign_and_damaged_weights_are_named(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, str(tmp_path / "foreign.safetensors"))
    with pytest.raises(CompanionError, match="has no identity"):
        load_weights(tmp_path / "foreign.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"\x00" * 5)
    with pytest.raises(CompanionError, match="not a safetensors file"):
        load_weights(tmp_path / "damaged.safetensors")
    with pytest.raises(CompanionError, match="does not exist"):
        load_weights(tmp_path / "none.safetensors")
