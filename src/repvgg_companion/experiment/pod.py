"""The verb `pod`: run one job of the workflow as a Kubernetes Job; the profile `kubernetes` calls it.

What is the same for all jobs (namespace, image, volumes, tolerations) is in a template, a Job manifest that a site
edits. What a rule asks for (cores, memory, GPUs, minutes) and the command are filled in here. The workflow's folder is
on a volume that every pod mounts at the same path, so nothing is copied in or out and training states outlive a pod.

Snakemake's own Kubernetes executor is not used: it moves every input and output of a job through an object storage (the
ImageNet archives too), and its pods have 64 MB of shared memory, too little for the processes that load images.
"""

import argparse
import copy
import json
import os
import re
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repvgg_companion.errors import CompanionError
from repvgg_companion.settings import request_of

TEMPLATE = Path(__file__).resolve().parents[3] / "workflow" / "profiles" / "kubernetes" / "job.yaml"
STARTING_MINUTES = 15
"""How much longer than its time limit a pod may live: pulling the image and starting count as well."""
PASSED_ON = "REPVGG_COMPANION_"
RUN = """\
setsid /bin/sh "$1" & child=$!
trap 'kill -s TERM -- -$child' TERM
wait $child; status=$?
while [ $status -gt 128 ]; do
  wait $child; again=$?
  [ $again != 127 ] || break
  [ $again != $status ] || kill -0 $child 2>/dev/null || break
  status=$again
done
exit $status
"""
"""The container's command. SIGTERM, which a pod's end sends to process 1 alone, reaches the training.

A signal ends `wait` with a status of its own, so the child's is asked for again; 127 says that it was given already.
"""


@dataclass(frozen=True)
class PodRequest:
    """The resources of one job of a rule: cores, GPUs, megabytes of memory, minutes until it stops itself."""

    rule: str
    cpus: int
    gpu: int
    mem_mb: int
    minutes: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `pod` verb."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    submit = actions.add_parser("submit", help="create a Job that runs a script, and print its id")
    submit.add_argument("script", help="a shell script below a path that the template mounts")
    submit.add_argument("--template", default=str(TEMPLATE), help="a Job manifest of this site (default: %(default)s)")
    submit.add_argument("--rule", default="job")
    submit.add_argument("--cpus", type=int, default=1)
    submit.add_argument("--gpu", type=int, default=0)
    submit.add_argument("--mem-mb", type=int, default=4000)
    submit.add_argument("--minutes", type=int, default=60)
    submit.add_argument("--dry-run", action="store_true", help="print the manifest and create nothing")
    actions.add_parser("status", help="print running, success or failed").add_argument("id")
    actions.add_parser("cancel", help="delete Jobs").add_argument("id", nargs="+")


def run(arguments: argparse.Namespace) -> None:
    """Submit, ask for or delete; raises CompanionError if kubectl, the template or the script is not in order."""
    if arguments.action == "status":
        print(status(arguments.id))
    elif arguments.action == "cancel":
        for identity in arguments.id:
            # Snakemake waits two seconds for this, a busy API server may take longer.
            _kubectl_in_background("delete", "job", *_place(identity), "--ignore-not-found", "--wait=false")
    else:
        request = request_of(PodRequest, arguments)
        job = manifest(read_template(arguments.template), request, Path(arguments.script), Path.cwd())
        if arguments.dry_run:
            print(json.dumps(job, indent=2))
        else:
            _kubectl("create", "-f", "-", text=json.dumps(job))
            print(f"{job['metadata']['namespace']}/{job['metadata']['name']}")


def read_template(path: str | Path) -> dict[str, Any]:
    """A site's Job manifest; raises CompanionError if it is not a Job."""
    import yaml

    try:
        template = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        if (template["apiVersion"], template["kind"]) != ("batch/v1", "Job"):
            raise CompanionError(f"{path} is a {template['kind']}; it must be a Job of batch/v1")
        container = template["spec"]["template"]["spec"]["containers"][0]
        if not isinstance(container["image"], str) or not isinstance(template["metadata"], dict):
            raise TypeError
    except FileNotFoundError:
        raise CompanionError(f"{path} does not exist; name the Job template with --template") from None
    except (yaml.YAMLError, KeyError, IndexError, TypeError):
        raise CompanionError(f"{path} is not a Job manifest with a container and its image; see {TEMPLATE}") from None
    return template


def manifest(template: dict[str, Any], request: PodRequest, script: Path, folder: Path) -> dict[str, Any]:
    """The Job that runs `script` in `folder`; raises CompanionError if the pod would not see one of them."""
    job = copy.deepcopy(template)
    pod = job["spec"]["template"]["spec"]
    container = pod["containers"][0]
    mounts = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
    script = folder / script
    for path in (folder, script):
        if not any(path.is_relative_to(mount) for mount in mounts):
            raise CompanionError(
                f"a pod would not see {path}: the template mounts {', '.join(mounts) or 'nothing'}; start Snakemake "
                "below a mounted path, or correct mountPath"
            )
    stem = re.sub(r"[^a-z0-9]+", "-", request.rule.lower()).strip("-")[:40].strip("-") or "job"
    job["metadata"] = {"namespace": "default", **job["metadata"], "name": f"{stem}-{uuid.uuid4().hex[:10]}"}
    job["metadata"].pop("generateName", None)
    job["metadata"].setdefault("annotations", {})["repvgg-companion/rule"] = request.rule
    job["spec"]["backoffLimit"] = 0  # Snakemake's `retries` decide
    pod["restartPolicy"] = "Never"
    pod["activeDeadlineSeconds"] = 60 * (request.minutes + STARTING_MINUTES)
    container["command"] = ["/bin/sh", "-c", RUN, "job", str(script)]
    container.pop("args", None)
    container["workingDir"] = str(folder)
    variables = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
    variables.setdefault("REPVGG_COMPANION_DEADLINE", str(request.minutes))
    kept = [entry for entry in container.get("env", []) if entry["name"] not in variables]
    container["env"] = kept + [{"name": name, "value": value} for name, value in sorted(variables.items())]
    _fill_resources(pod, container, request)
    return job


def _fill_resources(pod: dict[str, Any], container: dict[str, Any], request: PodRequest) -> None:
    resources = container.setdefault("resources", {})
    limits, requests = resources.setdefault("limits", {}), resources.setdefault("requests", {})
    kinds = [name for name in limits if name.endswith("/gpu")] or ["nvidia.com/gpu"]
    for name in kinds:
        limits.pop(name, None)
        requests.pop(name, None)
    if request.gpu:
        limits[kinds[0]] = request.gpu  # a GPU is granted as a limit only
    else:
        tolerations = [entry for entry in pod.get("tolerations", []) if entry.get("key") not in kinds]
        pod["tolerations"] = tolerations
    requests["cpu"] = str(request.cpus)  # and no limit: a job may use what is idle
    requests["memory"] = limits["memory"] = f"{request.mem_mb}M"


def status(identity: str) -> str:
    """`running`, `success` or `failed`, as Snakemake wants it; running if the API server does not answer."""
    done = _kubectl("get", "job", *_place(identity), "-o", "json", check=False)
    if done.returncode:
        if "NotFound" in done.stderr:
            print(f"pod: {identity} no longer exists; it was deleted", file=sys.stderr)
            return "failed"
        print(f"pod: kubectl: {done.stderr.strip()}; asking again later", file=sys.stderr)
        return "running"
    conditions = json.loads(done.stdout).get("status", {}).get("conditions") or []
    true = {condition["type"] for condition in conditions if condition["status"] == "True"}
    return "success" if "Complete" in true else "failed" if "Failed" in true else "running"


def _place(identity: str) -> tuple[str, str, str]:
    namespace, _, name = identity.rpartition("/")
    return name, "--namespace", namespace or "default"


def _kubectl(*words: str, text: str | None = None, check: bool = True) -> subprocess.CompletedProcess:
    try:
        done = subprocess.run(["kubectl", *words], input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise CompanionError("kubectl is not on PATH; install it and check `kubectl get jobs`") from None
    if check and done.returncode:
        raise CompanionError(f"kubectl {words[0]} failed: {' '.join(done.stderr.split())}")
    return done


def _kubectl_in_background(*words: str) -> None:
    try:
        subprocess.Popen(["kubectl", *words], stdout=subprocess.DEVNULL, start_new_session=True)
    except FileNotFoundError:
        raise CompanionError("kubectl is not on PATH; delete the jobs by hand") from None
