"""Weights files of larger models, of related networks, and with damage: recognised, or refused in one true sentence."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from timm_oracle import randomize

import repvgg_companion as rc
from repvgg_companion import __main__ as cli
from repvgg_companion.errors import CompanionError
from repvgg_companion.identity import WeightsIdentity
from repvgg_companion.models.build import build_model
from repvgg_companion.models.names import REPVGG_MODELS
from repvgg_companion.weights.key_layouts import from_official
from repvgg_companion.weights.recognize import recognize
from repvgg_companion.weights_file import load_weights, read_header, save_weights

IDENTITY = WeightsIdentity("digits", "0" * 64, "RepVGG-A0", 0.125, 10, "short", "01234567", "0", 32)


@pytest.fixture(scope="module")
def a0():
    torch.manual_seed(0)
    return randomize(build_model("RepVGG-A0", num_classes=10)).state_dict()


def weights(*arguments):
    return cli.main(["weights", *map(str, arguments)])


def refused(capsys, *arguments) -> str:
    """The one sentence with which `weights` refuses its arguments."""
    capsys.readouterr()
    assert weights(*arguments) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "Traceback" not in message
    return message


def below(prefix, state):
    return {f"{prefix}{key}": tensor for key, tensor in state.items()}


@pytest.mark.parametrize("prefix", ["backbone.", "encoder.", "model.backbone.", "module.encoder.net."])
@pytest.mark.parametrize("layout", ["official", "timm"])
def test_a_prefix_of_all_keys_is_removed_and_named(a0, tmp_path, capsys, prefix, layout):
    torch.save(below(prefix, from_official(a0, layout)), tmp_path / "x.pth")
    assert weights("inspect", tmp_path / "x.pth") == 0
    line = capsys.readouterr().out
    assert "RepVGG-A0 under the prefix" in line and f"{layout} layout, 10 classes" in line
    found = recognize(tmp_path / "x.pth", prefix=prefix)
    assert all(torch.equal(found.state[key], a0[key]) for key in a0) and found.state.keys() == a0.keys()


def test_a_network_inside_a_larger_model_is_read_by_its_prefix(a0, tmp_path, capsys):
    larger = below("student.", a0) | {"decoder.weight": torch.zeros(3)}
    torch.save(larger, tmp_path / "x.pth")
    message = refused(capsys, "inspect", tmp_path / "x.pth")
    assert (
        "'student.'" in message
        and "decoder.weight" in message
        and "--prefix student. (in Python prefix='student.')" in message
    )
    output = tmp_path / "out.pth"
    convert = ["convert", tmp_path / "x.pth", "--to", "official", "--output", output, "--prefix"]
    assert "--prefix student." in refused(capsys, *convert, "teacher.")
    assert weights(*convert, "student.") == 0
    written = torch.load(output, weights_only=True)
    assert written.keys() == a0.keys() and all(torch.equal(written[key], a0[key]) for key in a0)
    torch.save(larger | below("teacher.", a0), tmp_path / "two.pth")
    assert "--prefix student. or --prefix teacher." in refused(capsys, "inspect", tmp_path / "two.pth")


def test_a_foreign_head_is_named(a0, tmp_path, capsys):
    body = {key: tensor for key, tensor in a0.items() if not key.startswith("linear.")}
    torch.save(body | {"fc.weight": torch.zeros(7, 1280), "fc.bias": torch.zeros(7)}, tmp_path / "fc.pth")
    message = refused(capsys, "inspect", tmp_path / "fc.pth")
    assert "RepVGG-A0 in train form" in message and "another head (fc.bias, fc.weight)" in message
    torch.save(body, tmp_path / "body.pth")
    assert "without linear.bias and linear.weight; save" in refused(capsys, "inspect", tmp_path / "body.pth")


def _plus(state):
    return {key.replace("stage1.0.", "stage1.blocks.0."): t for key, t in state.items()} | {
        "stage3_first.blocks.0.rbr_dense.conv.weight": torch.zeros(1)
    }


def _fused_with_norm_after(state):
    deploy = build_model("RepVGG-A0", num_classes=10, form="deploy").state_dict()
    return deploy | {"stage0.bn.running_mean": torch.zeros(48), "stage0.bn.running_var": torch.ones(48)}


def _fused_with_norm_inside(state):
    deploy = build_model("RepVGG-A0", num_classes=10, form="deploy").state_dict()
    inside = {key.replace("rbr_reparam.", "rbr_reparam.conv."): tensor for key, tensor in deploy.items()}
    return inside | {"stage0.rbr_reparam.bn.running_mean": torch.zeros(48)}


def _grey(state):
    return state | {f"stage0.rbr_{name}.conv.weight": state[f"stage0.rbr_{name}.conv.weight"][:, :1].clone()
                    for name in ("dense", "1x1")}  # fmt: skip


RELATIVES = {
    "plus": (_plus, "holds a RepVGGplus (stage3_first."),
    "norm-after": (_fused_with_norm_after, "in deploy form but has batch norms (stage0.bn)"),
    "norm-inside": (_fused_with_norm_inside, "in deploy form but has batch norms (stage0.rbr_reparam.bn)"),
    "grey": (_grey, "a network for grey images (stage0.rbr_dense.conv.weight is [48, 1, 3, 3])"),
}


@pytest.mark.parametrize("kind", RELATIVES)
def test_a_related_network_is_named(a0, tmp_path, capsys, kind):
    make, words = RELATIVES[kind]
    torch.save(make(a0), tmp_path / "x.pth")
    assert words in refused(capsys, "inspect", tmp_path / "x.pth")


def test_one_flipped_bit_in_a_pytorch_file_is_found_by_its_entry(a0, tmp_path, capsys):
    path = tmp_path / "x.pth"
    torch.save(a0, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert torch.load(path, weights_only=True).keys() == a0.keys(), "torch does not notice"
    message = refused(capsys, "convert", path, "--to", "timm", "--output", tmp_path / "out.pth")
    assert "its entry x/data/" in message and "CRC-32" in message and not (tmp_path / "out.pth").exists()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(a0, tmp_path / "unchecked.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert weights("inspect", tmp_path / "unchecked.pth") == 0  # no checksums were written


BAD_TENSORS = {
    "negative variance": ("stage1.0.rbr_1x1.bn.running_var", lambda t: -t, "negative variances"),
    "integers": ("stage1.0.rbr_1x1.conv.weight", lambda t: t.to(torch.int8), "int8 values"),
    "sparse": ("stage1.0.rbr_1x1.conv.weight", lambda t: t.to_sparse(), "is stored as sparse"),
    "infinite float8": ("linear.bias", lambda t: torch.full((10,), torch.nan).to(torch.float8_e5m2), "not finite"),
}


@pytest.mark.parametrize("fault", BAD_TENSORS)
def test_a_tensor_that_no_network_can_have_is_named(a0, tmp_path, capsys, fault):
    key, change, words = BAD_TENSORS[fault]
    torch.save(a0 | {key: change(a0[key])}, tmp_path / "x.pth")
    message = refused(capsys, "convert", tmp_path / "x.pth", "--to", "timm", "--output", tmp_path / "out.pth")
    assert key in message and words in message


def test_tensors_that_share_memory_are_written_each_with_its_own(a0, tmp_path):
    shared = a0 | {"stage1.0.rbr_1x1.bn.bias": a0["stage1.0.rbr_dense.bn.bias"]}
    torch.save(shared, tmp_path / "x.pth")
    for layout in ("companion", "timm"):
        output = tmp_path / f"{layout}.safetensors"
        assert weights("convert", tmp_path / "x.pth", "--to", layout, "--output", output) == 0
        found = recognize(output)
        assert all(torch.equal(found.state[key], shared[key]) for key in shared)


def test_a_folder_in_place_of_weights_is_named(tmp_path):
    for read in (load_weights, read_header, recognize):
        with pytest.raises(CompanionError, match=f"^{tmp_path} is a folder; name the weights file in it$"):
            read(tmp_path)


def test_our_own_file_with_impossible_tensors_or_identity_is_refused(tmp_path):
    path = tmp_path / "train.safetensors"
    state = build_model("RepVGG-A0", num_classes=10, width=0.125).state_dict()
    save_weights(path, state | {"stage0.rbr_dense.bn.running_var": -torch.ones(8)}, IDENTITY)
    with pytest.raises(CompanionError, match=r"stage0\.rbr_dense\.bn\.running_var has negative variances"):
        load_weights(path)
    for text in ("{", "[]", "{}", json.dumps({"model": "RepVGG-A0", "width": "wide"}), json.dumps({"later": 1})):
        save_file(state, str(path), metadata={"repvgg_companion": text})
        with pytest.raises(CompanionError, match=r"the identity in the metadata of .* is damaged"):
            load_weights(path)
    values = json.loads(IDENTITY.metadata()["repvgg_companion"])
    for change in ({"num_classes": "10"}, {"seed": 0}, {"model": "../a"}, {"input_px": None}):
        save_file(state, str(path), metadata={"repvgg_companion": json.dumps(values | change)})
        with pytest.raises(CompanionError, match="is damaged or of a later version"):
            load_weights(path)


def test_other_files_beside_the_weights_are_skipped_and_never_unpickled(a0, tmp_path, capsys, monkeypatch):
    torch.save(a0, tmp_path / "x.pth")
    (tmp_path / "SHA256SUMS").write_text("")
    (tmp_path / "history.csv").write_text("epoch,learning_rate\n")
    for letter in "abe":
        (tmp_path / f"{letter}.txt").write_text(f"{letter} text\n")
    (tmp_path / "folder").mkdir()
    others = sorted(path for path in tmp_path.iterdir() if path.name != "x.pth")
    opened = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda path, **options: (opened.append(path), load(path, **options))[1])
    assert weights("inspect", *others, tmp_path / "x.pth") == 0
    told = capsys.readouterr()
    assert "RepVGG-A0, train form" in told.out and told.err.count("skipped, not a weights file") == len(others) == 6
    assert opened == [tmp_path / "x.pth"]
    assert weights("inspect", *others) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1, "one sentence"
    for letter in "abe":  # with the suffix of a weights file it is refused
        (tmp_path / f"{letter}.pth").write_text(f"{letter} text\n")
        assert "neither a safetensors nor a PyTorch file" in refused(capsys, "inspect", tmp_path / f"{letter}.pth")
    (tmp_path / "odd.pth").write_bytes(b"\x80\x02ae.")
    assert "odd.pth is damaged" in refused(capsys, "inspect", tmp_path / "odd.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pytorch_file_in_place_of_our_own_names_the_conversion(a0, tmp_path, capsys, zipped):
    path = tmp_path / "RepVGG-A0.pth"
    torch.save(a0, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CompanionError, match="convert it first with 'python -m repvgg_companion weights convert"):
        load_weights(path)
    assert cli.main(["export", "--weights", str(path), "--output", str(tmp_path / "x.onnx")]) == 2
    message = capsys.readouterr().err
    assert "weights convert" in message and "remove" not in message


OWN = "RepVGG-1.2.3.4.1-a0.75-b2-s1.1.2.2.2"


def _saved(path, model, width=1.0, form="train"):
    """A file of the companion of a random network, and its tensors."""
    state = randomize(build_model(model, num_classes=10, width=width, form=form)).state_dict()
    path.parent.mkdir(exist_ok=True)
    save_weights(path, state, replace(IDENTITY, model=model, width=width, form=form))
    return state


@pytest.mark.parametrize("model", [OWN, "RepVGG-B0_acb", "ResNet-18", "PSPNet-ResNet-50"])
def test_our_own_file_names_its_network(tmp_path, capsys, model):
    source, copy = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    state = _saved(source, model, width=1.0 if model == OWN else 0.125)
    assert weights("inspect", source) == 0
    assert f"{model}" in capsys.readouterr().out
    assert weights("convert", source, "--to", "companion", "--output", copy, "--dataset", "digits") == 0
    again, identity = load_weights(copy)
    assert (identity.model, identity.input_px) == (model, 32)
    assert again.keys() == state.keys() and all(torch.equal(again[key], state[key]) for key in state)
    if model != OWN:
        for layout in ("official", "timm", "mmpretrain"):
            message = refused(capsys, "convert", source, "--to", layout, "--output", tmp_path / "c.pth")
            assert f"holds {model}" in message and "has names only for" in message
            assert not (tmp_path / "c.pth").exists()
    assert f"is not RepVGG-A1 but, by its tensors, {model}" in refused(
        capsys, "inspect", source, "--model", "RepVGG-A1"
    )


@pytest.mark.parametrize(
    ("model", "width", "form"),
    [
        ("RepVGG-A0", 0.25, "train"),
        ("RepVGG-B1g4", 0.125, "deploy"),
        ("RepVGG-D2se", 0.1, "train"),
        (OWN, 1.0, "train"),
        (OWN, 0.5, "deploy"),
        ("RepVGG-A0-s1.1.2.2.2", 0.25, "deploy"),
        ("RepVGG-B0_acb", 0.25, "deploy"),
    ],
)
@pytest.mark.parametrize("layout", ["official", "timm", "mmpretrain"])
def test_what_is_written_in_another_layout_is_read_back(tmp_path, capsys, model, width, form, layout):
    source = tmp_path / "a.safetensors"
    state = _saved(source, model, width, form)
    expected = rc.load(source, form=form)
    for name in ("b.pth", "b.safetensors"):
        capsys.readouterr()
        assert weights("convert", source, "--to", layout, "--output", tmp_path / name) == 0
        told = capsys.readouterr().err
        is_of_the_paper = model in REPVGG_MODELS
        assert (f"--model {model} (in Python" in told) == (name == "b.pth" and not is_of_the_paper)
        found = recognize(tmp_path / name, model=model if told else None)
        assert (found.model, found.form, found.layout) == (model, form, layout)
        assert found.state.keys() == state.keys() and all(torch.equal(found.state[key], state[key]) for key in state)
        network = rc.load(tmp_path / name, form=form, model=model if told else None)
        images = torch.randn(1, 3, 32, 32)
        torch.testing.assert_close(network(images), expected(images), rtol=1e-4, atol=1e-3)


def test_damaged_metadata_of_a_network_are_named(tmp_path):
    state = build_model(OWN, num_classes=10).state_dict()
    for text in ("{", "[]", "{}", '{"model": "RepVGG-Z", "width": 1}', f'{{"model": "{OWN}", "width": "wide"}}'):
        save_file(state, tmp_path / "x.safetensors", metadata={"repvgg_companion_network": text})
        with pytest.raises(CompanionError, match=r"the metadata repvgg_companion_network of .* are damaged"):
            recognize(tmp_path / "x.safetensors")
