"""Which configuration reaches a run, and how mistakes in it end."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from .conftest import MICRO, ROOT, snakemake, write_config

EMPTY_ZIP = b"PK\x05\x06" + bytes(18)


def effective(folder: Path, name: str, *arguments: str) -> dict:
    """The resolved experiment that a run wrote; with --touch its jobs do nothing."""
    snakemake(folder, "--touch", *arguments)
    return json.loads((folder / f"results/{name}/experiment.json").read_text())


def test_plain_snakemake_runs_the_demo(tmp_path):
    assert effective(tmp_path, "demo")["experiment"] == "demo"


def test_no_demo_key_reaches_another_experiment(tmp_path):
    (tmp_path / "t.zip").write_bytes(EMPTY_ZIP)
    config = effective(
        tmp_path, "tiny-imagenet", "--configfile", str(ROOT / "config/tiny-imagenet.yaml"), "--config",
        f"data={{zip: {tmp_path / 't.zip'}}}",
    )  # fmt: skip
    demo = yaml.safe_load((ROOT / "config/demo.yaml").read_text())
    tiny = yaml.safe_load((ROOT / "config/tiny-imagenet.yaml").read_text())
    assert config["experiment"] == "tiny-imagenet" and config["data"]["zip"] == str(tmp_path / "t.zip")
    assert config["data"]["generate"] is None and config["data"]["num_classes"] is None
    assert not set(demo["recipes"]) & set(config["recipes"])
    assert {group["width"] for group in config["training"]} == {1.0}
    assert [group["models"] for group in config["training"]] == [group["models"] for group in tiny["training"]]
    assert config["kernel_size"] is None and config["memory"] is None


def test_a_nested_key_is_overridden_without_losing_its_neighbours(tmp_path):
    config = effective(tmp_path, "demo", "--config", "evaluation={batch_size: 7}")
    assert config["evaluation"]["batch_size"] == 7
    assert config["evaluation"]["protocol"] == "resize32-crop32-bilinear-pillow"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": {**MICRO["data"], "zipp": "a"}}, ["wrong.yaml", "data.zipp", "zip"]),
        ({"training": [{"models": ["RepVGG-A7"], "recipe": "micro-1-epoch"}]}, ["wrong.yaml", "RepVGG-A7", "training"]),
        ({"data": {"dataset": "t", "zip": "nowhere.zip"}}, ["wrong.yaml", "data.zip", "nowhere.zip"]),
        ({"data": {"dataset": "t", "zip": "wrong.yaml"}}, ["wrong.yaml: data.zip: ", "is not a zip"]),
        (
            {"training": [{"models": ["RepVGG-A0", "RepVGG-A0"], "recipe": "micro-1-epoch"}]},
            ["wrong.yaml", "RepVGG-A0", "twice"],
        ),
    ],
)
def test_mistakes_end_before_any_job(tmp_path, change, words):
    done = snakemake(tmp_path, "--configfile", write_config(tmp_path, {**MICRO, **change}, "wrong.yaml"), check=False)
    output = done.stdout + done.stderr
    assert done.returncode != 0 and "Traceback" not in output
    said = [line for line in output.splitlines() if not line.startswith("Using workflow specific profile")]
    assert len(said) == 1 and all(word in said[0] for word in words), output[-2000:]
    assert not (tmp_path / "results").exists()


def test_a_key_twice_in_the_file_ends_before_any_job(tmp_path):
    file = Path(write_config(tmp_path, MICRO, "wrong.yaml"))
    file.write_text(file.read_text() + "evaluation: {batch_size: 7}\n")
    done = snakemake(tmp_path, "--configfile", str(file), check=False)
    last = len(file.read_text().splitlines())
    assert done.returncode != 0 and re.search(
        rf"^wrong\.yaml has the key evaluation twice, in line \d+ and in line {last}; ", done.stderr, re.MULTILINE
    )
    assert not (tmp_path / "results").exists()


def test_a_dry_run_of_imagenet_lists_the_chain_without_the_archives(tmp_path):
    done = snakemake(tmp_path, "--dry-run", "--configfile", str(ROOT / "config/imagenet.yaml"))
    output = done.stdout + done.stderr
    assert "train " in output and "index" in output and "measure_speed" in output
    assert not (tmp_path / "results").exists()


def test_a_path_may_name_the_home_folder_and_have_braces(tmp_path, monkeypatch):
    """Snakemake takes braces for wildcards."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "images {a}").mkdir()
    (tmp_path / "images {a}" / "t.zip").write_bytes(EMPTY_ZIP)
    done = snakemake(
        tmp_path, "--dry-run", "--printshellcmds", "--configfile", str(ROOT / "config/tiny-imagenet.yaml"), "--config",
        "data={zip: '~/images {a}/t.zip'}",
    )  # fmt: skip
    assert f"--zip '{tmp_path}/images {{a}}/t.zip'" in done.stdout + done.stderr


def test_the_workflow_folder_is_a_workflow_of_its_own(tmp_path):
    """As the workflow catalog has it: `snakemake -s workflow/Snakefile`, or a module of another workflow."""
    inner = ROOT / "workflow/Snakefile"
    done = snakemake(tmp_path, "--snakefile", str(inner), "--dry-run")
    assert re.search(r"^train +25$", done.stdout + done.stderr, re.MULTILINE)
    (tmp_path / "Snakefile").write_text(
        f'module companion:\n    snakefile: "{inner}"\n    config: config["companion"]\n\n'
        "use rule * from companion as companion_*\n\n"
        "rule everything:\n    default_target: True\n    input: rules.companion_all.input\n"
    )
    config = write_config(tmp_path, {"companion": MICRO})
    words = ("--snakefile", str(tmp_path / "Snakefile"), "--configfile", config)
    done = snakemake(tmp_path, *words, "--dry-run")
    assert re.search(r"^companion_train +2$", done.stdout + done.stderr, re.MULTILINE)
    snakemake(tmp_path, *words, "--touch")
    assert json.loads((tmp_path / "results/micro/experiment.json").read_text())["experiment"] == "micro"


def test_linters_are_clean():
    for command in (
        ["ruff", "check", "src", "tests", "benchmarks"],
        ["ruff", "format", "--check", "src", "tests", "benchmarks"],
        ["snakefmt", "--check", "Snakefile", "workflow"],
        ["snakemake", "--lint"],
    ):
        done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def test_no_rule_runs_python_code_and_no_shell_line_reads_the_configuration():
    for path in [ROOT / "Snakefile", *(ROOT / "workflow").rglob("*.smk")]:
        text = path.read_text()
        assert "\n    run:" not in text and "\n        run:" not in text, path
        assert "config[" not in text, path
