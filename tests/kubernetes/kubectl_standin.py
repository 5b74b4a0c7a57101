"""A stand-in for `kubectl` and the cluster behind it: checks each Job against the schema and runs its container here.

The folder KUBECTL_STANDIN holds `schema/` and, for each Job, NAME.json, NAME.log and, when it has ended, NAME.exit. As
in a pod, the process sees the variables of the manifest and of the image, not those of whoever created the Job.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from kubernetes_schema import faults

FOLDER = Path(os.environ["KUBECTL_STANDIN"])


def create() -> None:
    job = json.load(sys.stdin)
    if found := faults(job, FOLDER / "schema"):
        sys.exit(f"The Job is invalid: {'; '.join(found)}")
    name = job["metadata"]["name"]
    (FOLDER / f"{name}.json").write_text(json.dumps(job, indent=2))
    with (FOLDER / f"{name}.log").open("w") as log:
        command = [sys.executable, __file__, "run-pod", name]
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    print(f"job.batch/{name} created")


def run_pod(name: str) -> None:
    container = json.loads((FOLDER / f"{name}.json").read_text())["spec"]["template"]["spec"]["containers"][0]
    image = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(FOLDER), "OMP_NUM_THREADS": "1"}
    environment = image | {entry["name"]: entry["value"] for entry in container["env"]}
    process = subprocess.Popen(container["command"], cwd=container["workingDir"], env=environment)
    (FOLDER / f"{name}.pid").write_text(str(process.pid))
    (FOLDER / f"{name}.exit").write_text(str(process.wait()))


def get(name: str) -> None:
    if not (FOLDER / f"{name}.json").exists():
        sys.exit(f'Error from server (NotFound): jobs.batch "{name}" not found')
    path = FOLDER / f"{name}.exit"
    conditions = None
    if path.exists() and path.read_text():
        kind = "Complete" if path.read_text() == "0" else "Failed"
        conditions = [{"type": "Suspended", "status": "False"}, {"type": kind, "status": "True"}]
    print(json.dumps({"metadata": {"name": name}, "status": {"conditions": conditions}}))


def delete(name: str) -> None:
    """SIGTERM to the container's first process, as at an eviction; the Job is gone once it has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(int((FOLDER / f"{name}.pid").read_text()), signal.SIGTERM)
    limit = time.monotonic() + 60
    while not (FOLDER / f"{name}.exit").exists() and time.monotonic() < limit:
        time.sleep(0.1)
    (FOLDER / f"{name}.json").rename(FOLDER / f"{name}.deleted")


if __name__ == "__main__":
    words = sys.argv[1:]
    if words[:3] == ["create", "-f", "-"]:
        create()
    elif words[0] == "run-pod":
        run_pod(words[1])
    elif words[:2] == ["get", "job"] and words[3] == "--namespace" and words[-2:] == ["-o", "json"]:
        get(words[2])
    elif words[:2] == ["delete", "job"] and words[3] == "--namespace":
        delete(words[2])
    else:
        sys.exit(f"kubectl stand-in: cannot do {' '.join(words)}")
