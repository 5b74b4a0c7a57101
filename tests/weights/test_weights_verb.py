"""The verb `weights` on whole files: full-width networks, wrappers, damage, and pickles that would run code."""

import hashlib
import http.server
import json
import pickle
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from timm_oracle import randomize, timm_network

from repvgg_companion import __main__ as cli
from repvgg_companion.errors import CompanionError
from repvgg_companion.files import sha256_of_file
from repvgg_companion.models.build import build_model
from repvgg_companion.models.names import REPVGG_MODELS
from repvgg_companion.weights import published_files
from repvgg_companion.weights import recognize as recognize_module
from repvgg_companion.weights.key_layouts import from_official
from repvgg_companion.weights.key_prefixes import strip_prefixes
from repvgg_companion.weights.reading import read_tensors, unwrap
from repvgg_companion.weights.recognize import recognize
from repvgg_companion.weights_file import load_weights


@pytest.fixture(scope="module")
def a0():
    torch.manual_seed(0)
    return randomize(build_model("RepVGG-A0")).state_dict()


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def weights(*arguments):
    return cli.main(["weights", *map(str, arguments)])


@pytest.mark.parametrize("name", REPVGG_MODELS)
def test_every_variant_is_told_by_its_shapes(name, monkeypatch, tmp_path):
    """All fourteen are told apart; the reading of gigabytes is replaced by tensors without memory."""
    for form in ("train", "deploy"):
        with torch.device("meta"):
            state = build_model(name, num_classes=21, form=form).state_dict()
        for layout in ("official", "timm", "mmpretrain"):
            path = tmp_path / f"{layout}.pth"
            path.write_bytes(b"stands for a large file")
            monkeypatch.setattr(recognize_module, "read_tensors", lambda _, s=state, to=layout: from_official(s, to))
            monkeypatch.setattr(recognize_module, "require_sound", lambda state, path: None)
            monkeypatch.setattr(torch, "isfinite", lambda tensor: torch.ones(()))
            found = recognize(path)
            assert (found.model, found.form, found.layout, found.num_classes) == (name, form, layout, 21)


@pytest.mark.parametrize("layout", ["official", "timm", "mmpretrain"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_round_trip_through_files_is_bit_exact(a0, tmp_path, layout, suffix):
    source, other, back = tmp_path / "a.pth", tmp_path / f"b{suffix}", tmp_path / "c.pth"
    torch.save(a0, source)
    assert weights("convert", source, "--to", layout, "--output", other) == 0
    assert weights("convert", other, "--to", "official", "--output", back) == 0
    assert same(torch.load(back, weights_only=True), a0)
    if layout == "timm":
        stored = load_file(other) if suffix == ".safetensors" else torch.load(other, weights_only=True)
        timm_network("RepVGG-A0").load_state_dict(stored, strict=True)
    assert weights("convert", source, "--to", layout, "--output", other) == 2  # nothing is overwritten


def test_no_file_is_written_under_a_name_whose_digest_is_published(a0, tmp_path, capsys):
    source, target = tmp_path / "a.pth", tmp_path / "RepVGG-A0-train.pth"
    torch.save(a0, source)
    assert weights("convert", source, "--to", "official", "--output", target) == 2
    assert "give --output another name" in capsys.readouterr().err and not target.exists()


def test_what_timm_saves_is_imported_and_computes_the_same(tmp_path):
    torch.manual_seed(0)
    theirs = randomize(timm_network("RepVGG-B1g4")).eval()
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    root = tmp_path / "weights"
    arguments = ["convert", tmp_path / "model.safetensors", "--to", "companion", "--weights-folder", root]
    assert weights(*arguments) == 0
    digest = sha256_of_file(tmp_path / "model.safetensors")
    path = root / "imagenet" / "RepVGG-B1g4" / f"released_{digest[:8]}" / "seednone" / "train.safetensors"
    state, identity = load_weights(path)
    assert (identity.model, identity.seed, identity.form) == ("RepVGG-B1g4", "none", "train")
    ours = build_model("RepVGG-B1g4").eval()
    ours.load_state_dict(state, strict=True)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(
            ours(images), theirs(images), rtol=1e-4, atol=1e-4 * float(theirs(images).abs().max())
        )
    first = path.read_bytes()
    assert weights(*arguments) == 0 and path.read_bytes() == first  # importing again changes nothing
    path.write_bytes(b"something of the user's")
    assert weights(*arguments) == 2 and path.read_bytes() == b"something of the user's"


def test_a_deploy_file_named_train_is_told_by_its_keys(tmp_path, capsys):
    state = build_model("RepVGG-A1", form="deploy").state_dict()
    torch.save(state, tmp_path / "RepVGG-A1-train.pth")  # as issue 67 of the authors' repository reports
    assert weights("inspect", tmp_path / "RepVGG-A1-train.pth") == 0
    assert "RepVGG-A1, deploy form, official layout" in capsys.readouterr().out


WRAPPERS = {
    "bare": lambda s: s,
    "state_dict": lambda s: {"epoch": 3, "state_dict": s},
    "data-parallel": lambda s: {"state_dict": {f"module.{key}": t for key, t in s.items()}},
    "model": lambda s: {"model": s, "optimizer": {"state": {}}},
    "state_dict_ema": lambda s: {"state_dict_ema": s},
    "model_ema": lambda s: {
        "model_ema": {f"module.{key}": t for key, t in s.items()} | {"n_averaged": torch.tensor(3)}
    },
    "compiled": lambda s: {f"_orig_mod.{key}": t for key, t in s.items()},
    "compiled-parallel": lambda s: {f"module._orig_mod.{key}": t for key, t in s.items()},
    "nested": lambda s: {"model": {"state_dict": s}},
    "lightning": lambda s: {"state_dict": {f"model.{key}": t for key, t in s.items()}},
    "beside-ema": lambda s: {"state_dict_ema": {key: t * 0 for key, t in s.items()}, "state_dict": s},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers(a0, tmp_path, wrapper):
    torch.save(WRAPPERS[wrapper](a0), tmp_path / "x.pth")
    found = recognize(tmp_path / "x.pth")
    assert found.model == "RepVGG-A0" and same(found.state, a0)


def test_a_header_length_that_looks_like_a_web_page_is_none(tmp_path):
    """Its 8 bytes may begin with a blank and `<`: 0x3c20 bytes of header, which the library pads with spaces."""
    tensor = {"linear.bias": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    header = json.dumps(tensor).encode().ljust(0x3C20)
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    assert path.read_bytes()[:2] == b" <"
    assert read_tensors(path)["linear.bias"].tolist() == [0, 0]
    (tmp_path / "page.safetensors").write_bytes(b"  <!doctype html>")
    with pytest.raises(CompanionError, match="is a web page"):
        read_tensors(tmp_path / "page.safetensors")


def test_prefixes_are_stripped_at_the_front_only():
    state = {"module.stage0.module.weight": torch.zeros(1), "_orig_mod.linear.weight": torch.zeros(1)}
    assert set(strip_prefixes(state)) == {"stage0.module.weight", "linear.weight"}
    with pytest.raises(Exception, match="twice"):
        strip_prefixes({"module.a": torch.zeros(1), "a": torch.zeros(1)})
    with pytest.raises(Exception, match="no state dict"):
        unwrap([1, 2])


class RunsCode:
    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return (Path.touch, (self.victim,))


@pytest.mark.parametrize("new_format", [True, False])
def test_a_pickle_that_would_run_code_runs_none(a0, tmp_path, capsys, new_format):
    victim = tmp_path / "code-was-run"
    torch.save({"state_dict": a0, "config": RunsCode(victim)}, tmp_path / "x.pth",
               _use_new_zipfile_serialization=new_format)  # fmt: skip
    (tmp_path / "y.pth").write_bytes(pickle.dumps(RunsCode(victim)))
    for name in ("x.pth", "y.pth"):
        assert weights("inspect", tmp_path / name) == 2
        message = capsys.readouterr().err
        assert name in message and "state_dict()" in message and message.count("\n") == 1
    assert not victim.exists()


def _truncated(path, state):
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _without(key):
    return lambda path, state: torch.save({name: t for name, t in state.items() if name != key}, path)


BAD_FILES = {
    "missing": (lambda path, state: None, "does not exist"),
    "empty": (lambda path, state: path.write_bytes(b""), "is empty"),
    "web page": (lambda path, state: path.write_text("<!DOCTYPE html>sign in"), "web page"),
    "truncated": (_truncated, "undamaged copy"),
    "text": (lambda path, state: path.write_text("hello, weights"), "x.pth"),
    "a list": (lambda path, state: torch.save([1, 2], path), "no state dict"),
    "no tensors": (lambda path, state: torch.save({"epoch": 1}, path), "its keys: epoch"),
    "another network": (lambda path, state: torch.save(torch.nn.Conv2d(3, 3, 3).state_dict(), path), "no RepVGG"),
    "a missing tensor": (_without("stage1.0.rbr_1x1.bn.bias"), "stage1.0.rbr_1x1.bn.bias"),
    "a missing head": (_without("linear.bias"), "linear.bias"),
    "a misshapen tensor": (
        lambda path, state: torch.save(state | {"stage2.0.rbr_dense.conv.weight": torch.zeros(1)}, path),
        "another shape (stage2.0.rbr_dense.conv.weight)",
    ),
    "a surplus tensor": (
        lambda path, state: torch.save(state | {"stage2.0.rbr_5x5.conv.weight": torch.zeros(1)}, path),
        "rbr_5x5",
    ),
    "not finite": (
        lambda path, state: torch.save(state | {"linear.bias": torch.full((1000,), torch.nan)}, path), "not finite"
    ),
    "mixed forms": (
        lambda path, state: torch.save(state | {"stage0.rbr_reparam.bias": torch.zeros(48)}, path), "mixes"
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD_FILES)
def test_a_file_that_cannot_be_used_gets_one_sentence(a0, tmp_path, capsys, fault):
    make, words = BAD_FILES[fault]
    make(tmp_path / "x.pth", a0)
    assert weights("convert", tmp_path / "x.pth", "--to", "timm", "--output", tmp_path / "out.pth") == 2
    message = capsys.readouterr().err
    assert words in message and "x.pth" in message and message.count("\n") == 1 and "Traceback" not in message
    assert not (tmp_path / "out.pth").exists()


def test_the_nearest_model_is_named(tmp_path, capsys):
    state = build_model("RepVGG-B1g2").state_dict()
    del state["stage1.0.rbr_dense.conv.weight"]
    torch.save(state, tmp_path / "x.pth")
    assert weights("inspect", tmp_path / "x.pth") == 2
    message = capsys.readouterr().err
    assert "nearest is RepVGG-B1g2" in message and "1 missing (stage1.0.rbr_dense.conv.weight)" in message


def test_another_model_than_the_expected_one_is_refused(a0, tmp_path, capsys):
    torch.save(a0, tmp_path / "x.pth")
    arguments = ["convert", tmp_path / "x.pth", "--to", "timm", "--output", tmp_path / "out.pth", "--model"]
    assert weights(*arguments, "RepVGG-A1") == 2
    assert "is not RepVGG-A1" in capsys.readouterr().err
    torch.save(a0, tmp_path / "RepVGG-B0-train.pth")
    assert weights("inspect", tmp_path / "RepVGG-B0-train.pth") == 2


def test_one_flipped_byte_in_a_file_of_known_digest_is_refused_by_name(a0, tmp_path, capsys, monkeypatch):
    path = tmp_path / "RepVGG-A0-train.pth"
    torch.save(a0, path)
    assert weights("inspect", path) == 2  # this name has a published digest, and these are not those weights
    assert "RepVGG-A0-train.pth" in capsys.readouterr().err
    digest = hashlib.sha384(path.read_bytes()).hexdigest()
    monkeypatch.setitem(published_files.PUBLISHED_DIGESTS, path.name, digest)
    assert weights("inspect", path) == 0
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert weights("inspect", path) == 2
    assert path.name in capsys.readouterr().err


def test_sha256sums_beside_the_files_are_compared(a0, tmp_path, capsys):
    path = tmp_path / "mine.pth"
    torch.save(a0, path)
    (tmp_path / "SHA256SUMS").write_text(f"{sha256_of_file(path)}  mine.pth\n")
    assert weights("inspect", path) == 0 and "SHA256SUMS" in capsys.readouterr().out
    path.write_bytes(path.read_bytes() + b"x")
    assert weights("inspect", path) == 2


def test_published_digests_have_their_form():
    assert all(len(digest) == 96 for digest in published_files.PUBLISHED_DIGESTS.values())
    assert len(published_files.OFFICIAL_FILES) == 12 and len(published_files.TIMM_NAMES) == 11


class Hub(http.server.BaseHTTPRequestHandler):
    """The part of the hub's protocol that a download of one file needs."""

    content: bytes = b""

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, *, body):
        found = self.path.split("?")[0] == "/timm/repvgg_a0.rvgg_in1k/resolve/main/model.safetensors"
        self.send_response(200 if found else 404)
        if found:
            self.send_header("ETag", f'"{hashlib.sha256(self.content).hexdigest()}"')
            self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("Content-Length", str(len(self.content) if found else 0))
        self.end_headers()
        if body and found:
            self.wfile.write(self.content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(a0, tmp_path):
    save_file(from_official(a0, "timm"), tmp_path / "published.safetensors")
    Hub.content = (tmp_path / "published.safetensors").read_bytes()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_fetch_records_the_digest_at_first_use_and_compares_it(hub, a0, tmp_path, capsys):
    folder = tmp_path / "fetched"
    arguments = ["fetch", "--models", "RepVGG-A0", "--output", folder, "--endpoint", hub]
    assert weights(*arguments) == 0
    path = folder / "repvgg_a0.rvgg_in1k.safetensors"
    assert (folder / "SHA256SUMS").read_text() == f"{sha256_of_file(path)}  {path.name}\n"
    assert same(recognize(path).state, a0)
    assert sorted(item.name for item in folder.iterdir() if not item.name.endswith(".lock")) == [
        "SHA256SUMS",
        path.name,
    ]
    path.unlink()
    Hub.content = Hub.content[:-1] + bytes([Hub.content[-1] ^ 1])  # the server now gives something else
    capsys.readouterr()
    assert weights(*arguments) == 2
    assert path.name in capsys.readouterr().err


def test_fetch_says_what_is_published_where(hub, tmp_path, capsys):
    fetch = ["fetch", "--output", tmp_path / "fetched", "--endpoint", hub, "--models"]
    assert weights(*fetch, "RepVGG-B1g2") == 2
    assert "RepVGG-B1g2-train.pth" in capsys.readouterr().err
    assert weights(*fetch, "RepVGG-B2g2") == 2
    assert "never released" in capsys.readouterr().err.replace("were ever released", "never released")
    assert weights(*fetch, "RepVGG-A1") == 2  # the server does not have it
    message = capsys.readouterr().err
    assert "could not be fetched" in message and message.count("\n") == 1
