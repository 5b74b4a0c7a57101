"""Trainings of three models under Snakemake are killed fifty times: nothing is lost, nothing trained twice.

Snakemake starts a killed training again (`--retries`), as on a cluster; now and then it is killed itself. One thread
per model waits for its training to reach a stage (start-up, steps, writing a checkpoint, validation, the last files,
publishing) and kills it there at a random moment. The seed of the moments is printed. REPVGG_COMPANION_KILLS sets how
often each model is planned to be killed; the continuous integration, which has a time limit, takes fewer.
"""

import contextlib
import copy
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from paused_training import paused_training

from repvgg_companion.files import sha256_of_file

from .conftest import MICRO, ROOT, snakemake, write_config

pytestmark = pytest.mark.slow

EACH = int(os.environ.get("REPVGG_COMPANION_KILLS", "18"))
EPOCHS, STEPS_PER_EPOCH = (
    EACH * 7 // 9,
    46,
)  # so many that a quick machine does not end before it was killed often enough
STEPS = EPOCHS * STEPS_PER_EPOCH
INTERVAL = 8  # optimizer steps between two checkpoints

CONFIG = copy.deepcopy(MICRO)
PLAIN = CONFIG["recipes"].pop("micro-1-epoch") | {
    "epochs": EPOCHS, "input_px": 16, "validation": "resize16-crop16-bilinear-pillow",
}  # fmt: skip
CONFIG["recipes"] = {
    "plain": PLAIN,
    "averaged": PLAIN | {"ema_decay": 0.9, "nesterov": True, "label_smoothing": 0.1, "memory_format": "contiguous"},
    "mixed": PLAIN | {"mixup_alpha": 0.2, "batch_norm_batch_size": 16},
}
CONFIG["training"] = [
    {"models": [model], "recipe": recipe, "width": 0.0625}
    for model, recipe in {"RepVGG-A1": "mixed", "RepVGG-B0": "averaged", "RepVGG-A0": "plain"}.items()
]
KILLS = dict.fromkeys(("RepVGG-A1", "RepVGG-B0", "RepVGG-A0"), EACH)
SHARE = {"start": 2, "validation": 2, "checkpoint": 2}  # of each model's kills; most fall between two steps
SIGNALS = [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT]


def weights(folder: Path) -> dict[str, Path]:
    return {path.parts[-4]: path for path in (folder / "results/weights").rglob("train.safetensors")}


def history(folder: Path) -> dict[str, list[dict]]:
    return {
        model: [
            {name: value for name, value in row.items() if name not in ("images_per_s", "elapsed_s")}
            for row in csv.DictReader((path.parent / "history.csv").open())
        ]
        for model, path in weights(folder).items()
    }


def attempts(folder: Path, model: str) -> list[dict]:
    (path,) = (folder / "results/state").rglob(f"{model}/**/attempts.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    snakemake(folder, "--configfile", write_config(folder, CONFIG), "--until", "train")
    assert set(weights(folder)) == set(KILLS)
    return folder


@pytest.fixture
def fresh(undisturbed, tmp_path) -> Path:
    """A folder with the manifests, in which nothing was trained."""
    left_out = shutil.ignore_patterns("weights", "state", ".snakemake", "logs")
    return Path(shutil.copytree(undisturbed, tmp_path / "fresh", ignore=left_out))


def start(folder: Path, config: dict, *options: str) -> subprocess.Popen:
    """Snakemake in a session of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "REPVGG_COMPANION_CHECKPOINT_STEPS": str(INTERVAL)}
    return subprocess.Popen(
        [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder),
         "--cores", "2", "--configfile", write_config(folder, config), "--until", "train", *options],
        env=environment, cwd=folder, stdout=(folder / "snakemake.log").open("ab"), stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip


class Killer(threading.Thread):
    """Kills one model's training as often as planned; `kills` lists (stage, signal) of those that hit a live one."""

    def __init__(self, folder: Path, model: str, draw: random.Random) -> None:
        super().__init__(name=model, daemon=True)
        self.folder, self.model, self.draw = folder, model, draw
        stages = [stage for stage, count in SHARE.items() for _ in range(count)]
        stages += ["steps"] * (KILLS[model] - len(stages))
        draw.shuffle(stages)
        # The last files of a training exist once, so these two come last and may miss.
        self.plan = [*stages, "last files", "publishing"]
        self.kills: list[tuple[str, str]] = []
        self.halt = threading.Event()
        self.wrong = ""
        self._pid = 0

    def run(self) -> None:
        for stage in self.plan:
            pid = self._next_trainer()
            if pid is None:
                return
            if self._reached(stage, pid):
                number = signal.SIGKILL if stage in ("checkpoint", "last files") else self.draw.choice(SIGNALS)
                self._kill(stage, pid, number)
            elif stage in SHARE or stage == "steps":  # someone else ended it: once more
                self.plan.append(stage)
        self.halt.set()

    @property
    def state(self) -> Path:
        return next((self.folder / "results/state").glob(f"*/{self.model}/*/seed0"), self.folder / "not-yet")

    def _holder(self) -> int:
        try:
            return json.loads((self.state / "holder.json").read_text())["pid"]
        except (OSError, ValueError):
            return 0

    def _next_trainer(self) -> int | None:
        while not self.halt.is_set():
            pid = self._holder()
            if pid not in (0, self._pid) and alive(pid):
                self._pid = pid
                return pid
            time.sleep(0.005)
        return None

    def _heartbeat(self) -> tuple[int, int]:
        try:
            attempt, step, *_ = (self.state / "heartbeat").read_text().split()
            return int(attempt), int(step)
        except (OSError, ValueError):
            return 0, 0

    def _reached(self, stage: str, pid: int) -> bool:
        """Wait until the training `pid` is in the stage; False where it ended before."""
        if stage == "start":
            time.sleep(self.draw.random())
            return alive(pid)
        before = self._heartbeat()
        first = before[1]
        ahead = self.draw.randrange(1, 24)
        while alive(pid):
            names = [path.name for path in self.state.iterdir()]
            attempt, step = self._heartbeat()
            if attempt == before[0]:
                step = 0  # the attempt before it wrote that
            elif before[0] >= 0:
                before, first = (-1, 0), step
            in_steps = before[0] == -1 and step > first
            if (
                (stage == "steps" and in_steps and step >= first + ahead)
                or (stage == "validation" and in_steps and step % STEPS_PER_EPOCH == 0)
                # A killed attempt may have left such a file, so this one must have done a step.
                or (
                    stage == "checkpoint"
                    and in_steps
                    and any(name.startswith((".checkpoint", "..checkpoint")) for name in names)
                )
                or (stage == "last files" and any(name.startswith((".final", "final.safe")) for name in names))
                or (stage == "publishing" and "final.json" in names)
            ):
                if stage in ("steps", "validation"):
                    time.sleep(self.draw.random() * 0.06)
                return True
            time.sleep(0.001)
        return False

    def _kill(self, stage: str, pid: int, number: int) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        self.kills.append((stage, signal.Signals(number).name))
        while alive(pid):
            time.sleep(0.005)
        if self.model in weights(self.folder) and not (self.state / "final.json").exists():
            self.wrong = f"{self.model} was published by a killed training"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def end(process: subprocess.Popen, number: int, *, group: bool) -> int:
    """Signal a process (and its group) until it has ended, and return its status.

    Snakemake may miss a Ctrl-C, as while it chooses the next jobs; whoever sits before it presses it again. A SIGTERM
    may lock it up, since its handler takes a lock that the interrupted code may hold; batch systems then send SIGKILL.
    """
    again = [number] * 8 if number != signal.SIGTERM else [number, number, signal.SIGKILL]
    for one in again:
        (os.killpg if group else os.kill)(process.pid, one)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(15)
    raise AssertionError(f"Snakemake outlived {signal.Signals(again[-1]).name}")


def test_random_kills_under_snakemake(undisturbed, fresh):
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"random seed of the kills: {seed}")
    killers = [Killer(fresh, model, random.Random(f"{seed} {model}")) for model in KILLS]
    # Snakemake itself: power failure, Ctrl-C, end of a session (all at once), and Snakemake alone.
    ways = [(True, signal.SIGKILL), (True, signal.SIGINT), (True, signal.SIGTERM), (False, signal.SIGKILL)]
    own = {place * 3 * EACH // 5: way for place, way in enumerate(ways, start=1)}
    for killer in killers:
        killer.start()
    limit, ended, killed = time.monotonic() + 900, None, []
    while ended != 0:
        assert time.monotonic() < limit, (fresh / "snakemake.log").read_text()[-3000:]
        process = start(fresh, CONFIG, "--nolock", "--retries", "60", "--keep-going")
        while process.poll() is None and time.monotonic() < limit:
            if own and sum(len(killer.kills) for killer in killers) >= min(own) and any(map(Killer._holder, killers)):
                group, number = own.pop(min(own))
                killed.append(end(process, number, group=group))
            time.sleep(0.01)
        ended = process.wait(1)
    for killer in killers:
        killer.halt.set()
        killer.join(10)
    assert not own and all(status != 0 for status in killed), "Snakemake was killed in each of the ways"
    kills = [kill for killer in killers for kill in killer.kills]
    print(f"{len(kills)} kills: {dict(Counter(kills))}")
    assert len(kills) >= 3 * EACH - 4
    assert {stage for stage, _ in kills} >= {"start", "steps", "checkpoint", "validation"}
    assert not any(killer.wrong for killer in killers), [killer.wrong for killer in killers]

    assert history(fresh) == history(undisturbed)
    for model, path in weights(undisturbed).items():
        assert sha256_of_file(weights(fresh)[model]) == sha256_of_file(path), model
        lines = attempts(fresh, model)
        ends = [line for line in lines if line["event"] == "end"]
        executed = sum(line["to_step"] - line["from_step"] for line in ends)
        hit = [line for line in ends if line["reason"] != "finished"]
        print(f"{model}: {executed} steps executed for {STEPS}, {len(ends)} attempts that took steps or could")
        assert executed <= STEPS + INTERVAL * len(hit), ends
        assert sum(0 < line["to_step"] < STEPS for line in hit) >= KILLS[model] / 2
        starts = [line["from_step"] for line in lines if line["event"] == "start"]
        assert starts == sorted(starts), "it went on from an older checkpoint or from nothing"
        assert ends[-1]["to_step"] == STEPS and len(ends) == len(starts)
        left = {file.name for file in weights(fresh)[model].parent.iterdir()}
        assert left == {"train.safetensors", "train.training.json", "history.csv"}
        state = next((fresh / "results/state").glob(f"*/{model}/*/seed0"))
        assert not [file.name for file in state.iterdir() if file.name.startswith((".", "checkpoint", "holder"))]


def test_only_snakemake_is_killed_and_its_training_runs_on(undisturbed, fresh):
    """The orphan holds its state: a second training of the same model is refused, and waits for nobody to overwrite."""
    config = CONFIG | {"training": [item for item in CONFIG["training"] if item["models"] == ["RepVGG-A0"]]}
    process = start(fresh, config)
    orphan = paused_training(fresh, process, (fresh / "snakemake.log").read_text)  # slower than the second Snakemake
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert alive(orphan)
    written = write_config(fresh, config)
    snakemake(fresh, "--configfile", written, "--unlock")
    done = snakemake(fresh, "--configfile", written, "--until", "train", check=False)
    assert done.returncode != 0 and f"is being trained by process {orphan}" in done.stdout + done.stderr
    os.kill(orphan, signal.SIGCONT)
    limit = time.monotonic() + 300
    while alive(orphan):
        assert time.monotonic() < limit
        time.sleep(0.05)
    snakemake(fresh, "--configfile", written, "--unlock")
    snakemake(fresh, "--configfile", written, "--until", "train")
    assert sha256_of_file(weights(fresh)["RepVGG-A0"]) == sha256_of_file(weights(undisturbed)["RepVGG-A0"])
    assert [line["event"] for line in attempts(fresh, "RepVGG-A0")] == ["start", "end"], "nothing was trained twice"
