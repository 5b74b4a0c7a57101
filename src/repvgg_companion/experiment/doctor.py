"""The verb `doctor`: what can run on this machine and in this folder, what cannot, and what to do about it."""

import argparse
import importlib.metadata
import importlib.util
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from repvgg_companion.errors import CompanionError, counted, one_line
from repvgg_companion.files import OPEN_FILES, NoFileLocksError, locked_file
from repvgg_companion.machine.cpu import usable_cores

if TYPE_CHECKING:
    from repvgg_companion.experiment.experiment_file import Experiment

GIB = 1 << 30
State = Literal["ok", "note", "missing"]

PACKAGES: tuple[tuple[str, str, State, str], ...] = (
    (
        "training, evaluation and speed",
        "torch torchvision numpy scipy pyarrow safetensors PIL rich",
        "missing",
        "make setup",
    ),
    ("the workflow", "snakemake pydantic yaml pandas jinja2", "missing", "make setup"),
    ("figures", "matplotlib seaborn", "note", "make setup"),
    ("clock, power and throttling of a GPU", "pynvml", "note", "pip install nvidia-ml-py"),
    ("the fastest JPEG decoders", "simplejpeg cv2", "note", "pip install simplejpeg opencv-python-headless"),
    ("speed with ONNX Runtime", "onnx onnxscript onnxruntime", "note", "pip install onnx onnxscript onnxruntime"),
    ("speed with OpenVINO", "openvino", "note", "pip install openvino"),
)
"""What needs which modules, what it means if one is absent, and how to get them."""


@dataclass(frozen=True)
class Diagnosis:
    """One line of the answer: `ok`, `note` (works, but could be better) or `missing` (does not work), and a remedy."""

    subject: str
    state: State
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        remedy = f"\n         -> {self.remedy}" if self.remedy else ""
        return f"{self.state:<8} {self.subject}: {self.text}{remedy}"


@dataclass(frozen=True)
class DoctorRequest:
    """The folder of the checkout or of the results, and the experiment whose images are looked at, if any."""

    folder: Path
    experiment: Path | None

    def __post_init__(self) -> None:
        """Raise CompanionError if the folder is not one, or the experiment is no file."""
        if not self.folder.is_dir():
            raise CompanionError(f"{self.folder} is not a folder; name the one that the results will lie in")
        if self.experiment is not None and not self.experiment.is_file():
            what = "is a folder; name an experiment file in it" if self.experiment.is_dir() else "does not exist"
            raise CompanionError(f"{self.experiment} {what}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb `doctor`."""
    parser.add_argument("experiment", nargs="?", metavar="FILE", help="an experiment file, to look at its images too")
    parser.add_argument("--folder", default=".", help="where the results will lie (default: this folder)")


def run(arguments: argparse.Namespace) -> int:
    """Print a line for each diagnosis; 2 if something does not work."""
    request = DoctorRequest(Path(arguments.folder), Path(arguments.experiment) if arguments.experiment else None)
    states = []
    for diagnosis in diagnoses(request):
        print(diagnosis, flush=True)
        states.append(diagnosis.state)
    notes = counted(states.count("note"), "note")
    print(f"{states.count('ok')} in order, {notes}, {states.count('missing')} missing.")
    return 2 if "missing" in states else 0


def diagnoses(request: DoctorRequest) -> Iterator[Diagnosis]:
    """Every diagnosis on this machine, in the order in which a person would fix them."""
    yield _python()
    yield from _packages()
    if importlib.util.find_spec("torch"):
        yield from _torch_and_gpu()
    yield _shared_memory()
    yield _open_files()
    yield _disk(request.folder)
    yield _locks(request.folder)
    yield from _checkout(request.folder)
    if request.experiment is not None:
        yield from _checks_of_a_run(request.experiment, request.folder)


def _python() -> Diagnosis:
    version = ".".join(map(str, sys.version_info[:3]))
    return Diagnosis("Python", "ok", f"{version}, {counted(usable_cores(), 'usable core')}")


def _packages() -> Iterator[Diagnosis]:
    for subject, names, without, remedy in PACKAGES:
        absent = [name for name in names.split() if importlib.util.find_spec(name) is None]
        if absent:
            yield Diagnosis(subject, without, f"{', '.join(absent)} not installed", remedy)
        else:
            yield Diagnosis(subject, "ok", "all packages are installed")


def _torch_and_gpu() -> Iterator[Diagnosis]:
    import torch

    versions = {name: importlib.metadata.version(name) for name in ("torch", "torchvision")}
    minors = {name: [int(part) for part in version.split("+")[0].split(".")[:2]] for name, version in versions.items()}
    text = f"torch {versions['torch']}, torchvision {versions['torchvision']}"
    # torchvision 0.N goes with torch 2.(N - 15).
    if minors["torch"][0] == 2 and minors["torchvision"][1] != minors["torch"][1] + 15:
        remedy = f"install torchvision 0.{minors['torch'][1] + 15} with this torch: they are released in pairs"
        yield Diagnosis("torch and torchvision", "missing", f"{text}: not a pair", remedy)
    else:
        yield Diagnosis("torch and torchvision", "ok", text)
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        yield Diagnosis("GPU", "ok", f"{', '.join(names)}; CUDA {torch.version.cuda}")
        return
    driver = _driver()
    if not driver:
        yield Diagnosis("GPU", "note", "none; everything runs on the CPU, ImageNet trainings would take years")
    elif torch.version.cuda is None:
        yield Diagnosis("GPU", "missing", f"driver {driver}, but this torch is for CPUs", "install torch with CUDA")
    else:
        remedy = f"update the driver, or install a torch for an older CUDA than {torch.version.cuda}"
        yield Diagnosis("GPU", "missing", f"driver {driver}, but torch finds no usable GPU", remedy)


def _driver() -> str:
    """The version of the NVIDIA driver; empty if there is none."""
    if shutil.which("nvidia-smi") is None:
        return ""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else ""


def _shared_memory(path: str = "/dev/shm", needed: int = GIB) -> Diagnosis:
    """Batches pass from the loading processes to the training through shared memory."""
    try:
        free = shutil.disk_usage(path).free
    except OSError:
        return Diagnosis("shared memory", "note", f"{path} cannot be read", "use --workers 0 if loading fails")
    if free < needed:
        remedy = "docker run --shm-size 8g, or train with --workers 0"
        return Diagnosis("shared memory", "missing", f"{free / GIB:.2f} GiB free at {path}, 1 GiB is needed", remedy)
    return Diagnosis("shared memory", "ok", f"{free / GIB:.1f} GiB free at {path}")


def _open_files() -> Diagnosis:
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if allowed != resource.RLIM_INFINITY and allowed < OPEN_FILES:
        return Diagnosis("open files", "note", f"at most {allowed} a process", f"allow {OPEN_FILES} (ulimit -Hn)")
    return Diagnosis(
        "open files", "ok", "no limit" if allowed == resource.RLIM_INFINITY else f"up to {allowed} a process"
    )


def _disk(folder: Path) -> Diagnosis:
    installed = not any(importlib.util.find_spec(name) is None for name in ("torch", "snakemake"))
    needed = GIB if installed else 6 * GIB
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Diagnosis("disk", "missing", f"{folder}: {one_line(str(error))}", "choose another folder")
    if not os.access(folder, os.W_OK):
        return Diagnosis("disk", "missing", f"{folder} cannot be written to", "work in a folder that is yours")
    if free < needed:
        remedy = "free some: " + ("the demo takes 0.7 GiB" if installed else "the packages take 6 GiB")
        return Diagnosis("disk", "note", f"{free / GIB:.1f} GiB free at {folder}", remedy)
    return Diagnosis("disk", "ok", f"{free / GIB:.0f} GiB free at {folder}")


def _locks(folder: Path) -> Diagnosis:
    path = folder / f".doctor-{os.getpid()}.lock"
    try:
        with locked_file(path):
            return Diagnosis("file locks", "ok", f"the file system of {folder} has them")
    except (NoFileLocksError, OSError) as error:
        remedy = "keep results/state on a file system with locks, or make sure that nothing is started twice"
        return Diagnosis("file locks", "note", one_line(str(error)), remedy)
    finally:
        path.unlink(missing_ok=True)


def _checkout(folder: Path) -> Iterator[Diagnosis]:
    if shutil.which("git") is None:
        yield Diagnosis("git", "note", "not installed; results cannot name their commit", "install git")
    else:
        yield Diagnosis("git", "ok", "installed")
    if (folder / "workflow" / "Snakefile").is_file() and not (folder / "profiles" / "default").exists():
        remedy = "use a file system with symbolic links, or snakemake --workflow-profile workflow/profiles/default"
        yield Diagnosis("Snakemake's default profile", "missing", "the link 'profiles' is broken", remedy)
    if any((folder / ".snakemake" / "locks").glob("*")):
        yield Diagnosis(
            "lock of the workflow", "note", "another run holds it, or was killed", "if none runs: make unlock"
        )


def _images(experiment: "Experiment", origin: str) -> Iterator[Diagnosis]:
    """Whether the images of an experiment can be read, and how fast."""
    from repvgg_companion.experiment.load import kind_of_source  # needs pydantic
    from repvgg_companion.experiment.train_images import require_kind

    for key, place in experiment.data.source.items():
        path = Path(place)
        if key == "generate":
            yield Diagnosis("images", "ok", f"{origin} makes its own")
        elif not path.exists():
            yield Diagnosis(
                "images",
                "missing",
                f"data.{key}: {path} does not exist",
                f"correct the path in {origin}, or put the {kind_of_source(key)} there",
            )
        elif refused := _refusal("images", partial(require_kind, key, place, origin)):
            yield refused
        elif path.is_dir():
            yield Diagnosis("images", "ok", f"data.{key}: {path} is a folder; a run looks at its files")
        else:
            yield _read_speed(key, path)


def _checks_of_a_run(path: Path, folder: Path) -> Iterator[Diagnosis]:
    """The images of an experiment, and what a run would refuse at its start, in its words."""
    from repvgg_companion.experiment.load import read_experiment, require_backbones  # needs pydantic
    from repvgg_companion.experiment.train_images import require_classes, require_train_images

    experiment, origin = read_experiment(path), str(path)
    indexed = folder / "results" / "data" / experiment.data.dataset / "dataset.json"
    images = list(_images(experiment, origin))
    yield from images
    checks = {
        "classes": partial(require_classes, experiment, origin),
        "batch": partial(require_train_images, experiment, origin, indexed),
        "backbones": partial(require_backbones, experiment, origin),
    }
    if any(diagnosis.state == "missing" for diagnosis in images):
        del checks["classes"]
    for subject, check in checks.items():
        if refused := _refusal(subject, check):
            yield refused


def _refusal(subject: str, check: Callable[[], None]) -> Diagnosis | None:
    """The diagnosis of a check that a run makes at its start; None if it passes."""
    try:
        check()
    except CompanionError as error:
        text, _, remedy = str(error).partition("; ")
        return Diagnosis(subject, "missing", text, remedy)
    return None


def _read_speed(key: str, path: Path, sample: int = 64 << 20) -> Diagnosis:
    """Read the middle of an archive, which is rarely in memory."""
    size = path.stat().st_size
    try:
        with path.open("rb", buffering=0) as stream:
            stream.seek(max(0, (size - sample) // 2))
            start = time.perf_counter()
            read = 0
            while read < sample and (block := stream.read(4 << 20)):
                read += len(block)
            seconds = max(time.perf_counter() - start, 1e-9)
    except OSError as error:
        return Diagnosis("images", "missing", f"data.{key}: {path}: {one_line(str(error))}", "make the file readable")
    rate = read / seconds / 1e6
    text = (
        f"data.{key}: {path}, {size / 1e9:.2f} GB, read at {rate:,.0f} MB/s ({read / 1e6:.0f} MB, perhaps from memory)"
    )
    if rate < 100 and read >= sample:
        remedy = "an ImageNet epoch reads 148 GB: copy the archives to a faster disk"
        return Diagnosis("images", "note", text, remedy)
    return Diagnosis("images", "ok", text)
