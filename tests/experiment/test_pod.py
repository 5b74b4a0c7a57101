"""What a job of the workflow becomes on Kubernetes; `tests/kubernetes` checks it against the schema and runs it."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from repvgg_companion.__main__ import main
from repvgg_companion.experiment.pod import RUN, TEMPLATE, PodRequest, manifest, read_template

FOLDER = Path("/companion/repvgg")


def container(job: dict) -> dict:
    return job["spec"]["template"]["spec"]["containers"][0]


def test_a_request_becomes_limits_of_memory_and_gpus_and_a_deadline(monkeypatch):
    monkeypatch.setenv("REPVGG_COMPANION_CHECKPOINT_MINUTES", "5")
    job = manifest(read_template(TEMPLATE), PodRequest("train", 64, 8, 200_000, 1440), Path("x/job.sh"), FOLDER)
    assert container(job)["resources"] == {
        "limits": {"nvidia.com/gpu": 8, "memory": "200000M"}, "requests": {"cpu": "64", "memory": "200000M"},
    }  # fmt: skip
    variables = {entry["name"]: entry["value"] for entry in container(job)["env"]}
    assert variables["REPVGG_COMPANION_DEADLINE"] == "1440"
    assert variables["REPVGG_COMPANION_CHECKPOINT_MINUTES"] == "5"
    assert job["spec"]["template"]["spec"]["activeDeadlineSeconds"] > 1440 * 60, "the trainer is faster than the limit"
    assert container(job)["command"][-1] == "/companion/repvgg/x/job.sh"
    names = {manifest(read_template(TEMPLATE), PodRequest("train", 1, 0, 1, 1), Path("j"), FOLDER)["metadata"]["name"]
             for _ in range(20)}  # fmt: skip
    assert len(names) == 20 and all(name.startswith("train-") and len(name) <= 63 for name in names)


def test_a_job_without_gpus_asks_for_none_and_stays_off_gpu_nodes(tmp_path):
    text = TEMPLATE.read_text().replace("nvidia.com", "amd.com")
    (tmp_path / "amd.yaml").write_text(text)
    template = read_template(tmp_path / "amd.yaml")
    job = manifest(template, PodRequest("evaluate", 4, 0, 1000, 60), Path("job.sh"), FOLDER)
    assert container(job)["resources"]["limits"] == {"memory": "1000M"}
    assert job["spec"]["template"]["spec"]["tolerations"] == []
    job = manifest(template, PodRequest("train", 4, 2, 1000, 60), Path("job.sh"), FOLDER)
    assert container(job)["resources"]["limits"]["amd.com/gpu"] == 2
    assert template == read_template(tmp_path / "amd.yaml"), "the template is not changed"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "does not exist; name the Job template with --template"),
        ("a: [", "is not a Job manifest with a container"),
        ("[]", "is not a Job manifest with a container"),
        ("apiVersion: batch/v1\nkind: CronJob\n", "is a CronJob; it must be a Job"),
        ("apiVersion: batch/v1\nkind: Job\nspec: {template: {spec: {containers: []}}}", "is not a Job manifest"),
    ],
)
def test_a_bad_template_is_one_sentence(tmp_path, capsys, text, said):
    path = tmp_path / "job.yaml"
    if text is not None:
        path.write_text(text)
    assert main(["pod", "submit", "job.sh", "--template", str(path), "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_folder_that_no_pod_sees_and_a_missing_kubectl_are_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["pod", "submit", "job.sh"]) == 2
    assert f"a pod would not see {tmp_path}: the template mounts /companion, /dev/shm" in capsys.readouterr().err
    template = yaml.safe_load(TEMPLATE.read_text())
    container(template)["volumeMounts"][0]["mountPath"] = str(tmp_path)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(template))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["pod", "submit", "job.sh", "--template", "job.yaml"]) == 2
    assert "kubectl is not on PATH" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("echo '{\"status\": {}}'", "running"),
        ('echo \'{"status": {"conditions": [{"type": "Complete", "status": "True"}]}}\'', "success"),
        ('echo \'{"status": {"conditions": [{"type": "SuccessCriteriaMet", "status": "True"}]}}\'', "running"),
        ('echo \'{"status": {"conditions": [{"type": "Failed", "status": "True"}]}}\'', "failed"),
        ("echo 'Error from server (NotFound): jobs.batch \"a\" not found' >&2; exit 1", "failed"),
        ("echo 'Unable to connect to the server: net/http: TLS handshake timeout' >&2; exit 1", "running"),
    ],
)
def test_status_is_one_word_whatever_the_cluster_answers(tmp_path, monkeypatch, capsys, answer, status):
    (tmp_path / "kubectl").write_text(f"#!/bin/sh\n{answer}\n")
    (tmp_path / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert main(["pod", "status", "space/a"]) == 0
    assert capsys.readouterr().out == f"{status}\n"


@pytest.mark.parametrize("code", [0, 3])
def test_the_containers_command_hands_on_the_status_and_the_signal(tmp_path, code):
    """The end of a pod signals process 1 alone; what the script started below it must hear of it and may finish."""
    script = tmp_path / "job.sh"
    script.write_text(
        "trap : TERM\n"  # before the file that the signal waits for
        f'sh -c \'trap "echo saved >{tmp_path}/saved; exit {code}" TERM; echo $$ >{tmp_path}/up; '
        "while :; do sleep 0.05; done' &\n"
        # The signal may come before the first wait, or end it; a second wait for what has ended gives another status.
        "wait $!; status=$?; [ $status -le 128 ] || { wait $!; status=$?; }; exit $status\n"
    )
    process = subprocess.Popen(["/bin/sh", "-c", RUN, "job", str(script)])
    limit = time.monotonic() + 120
    while not (tmp_path / "up").exists() and time.monotonic() < limit:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    try:
        status = process.wait(120)
    finally:
        subprocess.run(["kill", "-9", "--", *(tmp_path / "up").read_text().split()], check=False, capture_output=True)
    assert status == code and (tmp_path / "saved").read_text() == "saved\n"
    assert subprocess.run(["/bin/sh", "-c", RUN, "job", "/nowhere"], capture_output=True).returncode != 0


def test_a_dry_run_prints_the_manifest(tmp_path, capsys, monkeypatch):
    template = yaml.safe_load(TEMPLATE.read_text())
    container(template)["volumeMounts"][0]["mountPath"] = str(tmp_path)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(template))
    monkeypatch.chdir(tmp_path)
    words = ["--template", "job.yaml", "--gpu", "1", "--rule", "measure_speed"]
    assert main(["pod", "submit", "job.sh", "--dry-run", *words]) == 0
    assert json.loads(capsys.readouterr().out)["metadata"]["annotations"] == {"repvgg-companion/rule": "measure_speed"}
