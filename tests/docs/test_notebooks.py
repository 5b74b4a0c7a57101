"""The notebooks: no outputs, an id in each cell, and every cell runs on small results."""

import re
from pathlib import Path

import matplotlib
import pytest
from notebook_runner import cells, run_notebook

from .conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs_and_with_ids(path):
    found = cells(path)
    identities = [cell["id"] for cell in found]
    assert len(set(identities)) == len(found) > 5
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", identity) for identity in identities)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in found)
    assert found[0]["cell_type"] == "markdown" and found[0]["source"][0].startswith("# ")


@pytest.fixture
def headless(monkeypatch):
    """Figures are drawn into memory, and torch's switches are put back."""
    import torch
    from matplotlib import pyplot

    monkeypatch.setattr(pyplot, "show", lambda: None)
    before = matplotlib.get_backend(), torch.is_grad_enabled()
    matplotlib.use("agg")
    yield
    pyplot.close("all")
    matplotlib.use(before[0])
    torch.set_grad_enabled(before[1])


def test_accuracy_against_speed_reads_the_committed_devices(headless, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("REPVGG_ROOT", str(tmp_path))
    monkeypatch.chdir(ROOT)
    space = run_notebook(ROOT / "notebooks/accuracy-against-speed.ipynb", [])
    joined = space["joined"]
    assert len(joined) > 10 and joined["run_id"].nunique() == 1 and {"RepVGG-A0", "ResNet-50"} <= set(joined["model"])
    assert (joined["low_examples_per_s"] <= joined["examples_per_s"]).all()


def test_own_variant_converts_and_counts(headless, capsys):
    space = run_notebook(ROOT / "notebooks/own-variant.ipynb", [])
    assert space["certificate"].passed and len(space["counts"]) == 6


def test_the_conversion_is_that_of_the_library_and_of_a_trained_file(headless, monkeypatch, trained_root, capsys):
    monkeypatch.setenv("REPVGG_ROOT", str(trained_root))
    run_notebook(ROOT / "notebooks/reparameterization.ipynb", [])
    assert "bit for bit" in capsys.readouterr().out


def test_a_wrong_deploy_file_is_noticed(headless, monkeypatch, trained_root, capsys):
    from repvgg_companion.weights_file import load_weights, save_weights

    (path,) = trained_root.rglob("deploy.safetensors")
    state, identity = load_weights(path)
    state["stage1.1.rbr_reparam.bias"][0] += 1
    save_weights(path, state, identity)
    monkeypatch.setenv("REPVGG_ROOT", str(trained_root))
    with pytest.raises(AssertionError, match="the deploy file holds another bias"):
        run_notebook(ROOT / "notebooks/reparameterization.ipynb", [])


@pytest.fixture
def trained_root(tmp_path) -> Path:
    """A results folder with the weights of one small network in both forms."""
    import torch

    import repvgg_companion as rc
    from repvgg_companion.identity import WeightsIdentity
    from repvgg_companion.weights_file import save_weights

    torch.manual_seed(0)
    network = rc.build("RepVGG-A0", num_classes=3, width=0.0625)
    network(torch.randn(4, 3, 32, 32))
    folder = tmp_path / "results/weights/digits/RepVGG-A0/01234567/seed0"
    for form, module in (("train", network), ("deploy", rc.convert(network))):
        identity = WeightsIdentity("digits", "", "RepVGG-A0", 0.0625, 3, "short", "01234567", "0", 32, form=form)
        save_weights(folder / f"{form}.safetensors", module.state_dict(), identity)
    return tmp_path
