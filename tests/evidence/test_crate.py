"""A crate is read back by another library and holds what the profile requires."""

import importlib.util
import json
import shutil

import pytest
from paper_synthetic import RUN, write_demo

from repvgg_companion.__main__ import main
from repvgg_companion.evidence.crate_parts import PROFILES
from repvgg_companion.files import sha256_of_file, write_json

rocrate = pytest.importorskip("rocrate.rocrate", reason="the package rocrate is not installed")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, facts, root_folder):
    """A checkout with one finished experiment."""
    root = tmp_path_factory.mktemp("checkout")
    for name in ("Snakefile", "Makefile"):
        shutil.copy(root_folder / name, root / name)
    for name in ("paper", "config", "workflow", "results/devices"):
        shutil.copytree(root_folder / name, root / name)
    folder = write_demo(root / "results" / "demo", facts)
    images = {"dataset": "demo-digits", "dataset_sha256": "a" * 64, "num_classes": 10, "train": {"n_images": 1500},
              "val": {"n_images": 297}}  # fmt: skip
    write_json(folder / "provenance.json", {"experiment": "demo", "commit": "b" * 40, "dataset": images})
    record = {"run_id": RUN, "commit": "b" * 40, "command": ["python", "-m", "repvgg_companion", "measure-speed"],
              "environment": {"repvgg_companion": "0.1.0"}}  # fmt: skip
    write_json(folder / "runs" / f"{RUN}.json", record)
    (folder / "parts").mkdir()
    (folder / "parts" / "speed.csv").write_text("intermediate")
    return root


@pytest.fixture(scope="module")
def root_folder(request):
    return request.config.rootpath


def _pack(checkout, results, output, *more):
    return main(["crate", str(checkout / results), "--root", str(checkout), "--output", str(output), *more])


@pytest.fixture(scope="module")
def packed(checkout, tmp_path_factory):
    output = tmp_path_factory.mktemp("crates") / "demo"
    assert _pack(checkout, "results/demo", output, "--agent", "A Person") == 0
    return output


def _listed(value):
    return value if isinstance(value, list) else [] if value is None else [value]


def _lacking(folder):
    """What the profile requires and the crate does not hold; empty for a crate that fits."""
    crate = rocrate.ROCrate(folder)
    root, workflow = crate.root_dataset, crate.mainEntity
    lacking = []
    if not set(PROFILES) <= {entity.id for entity in _listed(root.get("conformsTo"))}:
        lacking.append("profiles of the root dataset")
    descriptor = {entity if isinstance(entity, str) else entity.id for entity in _listed(crate.metadata["conformsTo"])}
    if "https://w3id.org/ro/crate/1.1" not in descriptor:
        lacking.append("version of the metadata")
    for name in ("name", "description", "datePublished", "license"):
        if not root.get(name):
            lacking.append(f"{name} of the root dataset")
    if not {"File", "SoftwareSourceCode", "ComputationalWorkflow"} <= set(_listed(workflow.type)):
        lacking.append("types of the main workflow")
    if not workflow.get("programmingLanguage"):
        lacking.append("language of the main workflow")
    actions = [entity for entity in crate.get_entities() if "CreateAction" in _listed(entity.type)]
    if workflow.id not in {action["instrument"].id for action in actions}:
        lacking.append("a run of the main workflow")
    mentioned = {getattr(entity, "id", entity) for entity in _listed(root.get("mentions"))}
    lacking += [f"mention of {action.id}" for action in actions if action.id not in mentioned]
    for action in actions:
        for name in ("object", "result"):
            lacking += [f"{name} {one}" for one in _listed(action.get(name)) if isinstance(one, str)]
    lacking += [entity.id for entity in crate.data_entities if not (folder / entity.id).is_file()]
    return lacking


def test_a_crate_of_an_experiment_fits_the_profile(packed):
    assert _lacking(packed) == []


def test_a_crate_without_its_run_does_not_fit(packed, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(packed, broken)
    path = broken / "ro-crate-metadata.json"
    facts = json.loads(path.read_text())
    facts["@graph"] = [entity for entity in facts["@graph"] if entity["@id"] != "#workflow-run"]
    path.write_text(json.dumps(facts))
    assert "a run of the main workflow" in _lacking(broken)


def test_files_are_copied_with_their_digests_and_parts_are_left_out(packed, checkout):
    crate = rocrate.ROCrate(packed)
    files = {entity.id: entity for entity in crate.data_entities}
    assert {"Snakefile", "config/demo.yaml", "paper/claims.csv", "results/demo/speed.csv"} <= set(files)
    assert not any("/parts/" in name for name in files)
    for name in ("results/demo/accuracy.csv", "Snakefile"):
        assert files[name]["sha256"] == sha256_of_file(packed / name) == sha256_of_file(checkout / name)


def test_a_measuring_run_names_its_command_and_tables(packed):
    crate = rocrate.ROCrate(packed)
    action = crate.get(f"#{RUN}")
    assert action["instrument"]["name"] == "repvgg_companion measure-speed"
    assert action["description"] == "python -m repvgg_companion measure-speed"
    assert action["startTime"] == "2026-03-01T12:00:00+00:00"
    made = {entity.id for entity in action["result"]}
    assert {"results/demo/speed.csv", "results/demo/kernel_size.csv", f"results/demo/runs/{RUN}.json"} == made - {
        "results/demo/memory.csv"
    }
    assert action["agent"]["name"] == "A Person"
    assert crate.get("#images-demo-digits")["identifier"] == "sha256:" + "a" * 64


def test_a_crate_of_the_ledger_fits_the_profile(checkout, tmp_path):
    folder = checkout / "results" / "reference"
    folder.mkdir()
    (folder / "ledger.csv").write_text("id,evidence_class\nC01,printed\n")
    try:
        assert _pack(checkout, "results/reference", tmp_path / "ledger") == 0
    finally:
        shutil.rmtree(folder)
    assert _lacking(tmp_path / "ledger") == []
    crate = rocrate.ROCrate(tmp_path / "ledger")
    assert crate.mainEntity.id == "Makefile"
    assert {"measure-speed", "measure-memory"} <= {
        entity.id.removeprefix("#verb-") for entity in crate.get_entities() if entity.id.startswith("#verb-")
    }


@pytest.mark.skipif(importlib.util.find_spec("rocrate_validator") is None, reason="roc-validator is not installed")
def test_the_validator_of_the_profile_finds_nothing(packed):
    from rocrate_validator import models, services

    settings = services.ValidationSettings(
        rocrate_uri=str(packed),
        profile_identifier="workflow-run-crate-0.5",
        requirement_severity=models.Severity.REQUIRED,
        offline=True,
    )
    assert not services.validate(settings).has_issues()


def test_only_a_crate_of_ours_is_replaced(packed, checkout, tmp_path, capsys):
    again = tmp_path / "again"
    shutil.copytree(packed, again)
    assert _pack(checkout, "results/demo", again) == 0
    assert "#agent" not in (again / "ro-crate-metadata.json").read_text()
    (again / "mine.txt").write_text("mine")
    assert _pack(checkout, "results/demo", again) == 2
    assert "also holds mine.txt, which is not part of the crate" in capsys.readouterr().err
    assert (again / "mine.txt").read_text() == "mine"
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    assert _pack(checkout, "results/demo", other) == 2
    assert "holds files that this verb did not write" in capsys.readouterr().err
    assert [path.name for path in other.iterdir()] == ["notes.txt"]


def test_refusals_say_what_to_do(checkout, tmp_path, capsys):
    cases = {
        ("results/none", tmp_path / "out"): "is not a folder; name results/EXPERIMENT",
        ("results/devices", tmp_path / "out"): "provenance.json does not exist; finish the experiment first",
        ("results/demo", checkout / "results" / "demo" / "crate"): "is inside the results that are packed",
        ("results/demo", checkout / "Makefile"): "is a file; name a new folder",
    }
    for (results, output), message in cases.items():
        assert _pack(checkout, results, output) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
