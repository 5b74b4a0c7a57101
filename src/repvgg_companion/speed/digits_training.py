"""A whole training on a device: on the digits, stopped by SIGTERM, continued, converted and evaluated.

Each step is a verb in a process of its own, as a user runs it. It shows that training works here; the accuracies say
nothing about the paper.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from repvgg_companion.contract import read_rows
from repvgg_companion.errors import CompanionError
from repvgg_companion.speed.device_parts import DigitsSettings
from repvgg_companion.training.job.state import StateFolder
from repvgg_companion.training.recipe import Recipe

PROTOCOL = "resize32-crop32-bilinear-pillow"
POLL_S = 0.05
END_S = 20.0
"""A child that was asked to end has this long before it is killed."""

VerbCall = Callable[[list[str], Callable[[], bool] | None], int]
"""Runs a verb and returns its exit status; once the condition (if any) holds, SIGTERM is sent."""


def call_verb(words: list[str], stop_when: Callable[[], bool] | None = None) -> int:
    """Run one verb in a process of its own; it ends with this one. See `VerbCall`."""
    process = subprocess.Popen([sys.executable, "-m", "repvgg_companion", *words], stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            if stop_when is not None and stop_when():
                process.send_signal(signal.SIGTERM)
                stop_when = None
            time.sleep(POLL_S)
        return process.returncode
    finally:
        end_process(process)


def end_process(process: subprocess.Popen) -> None:
    """Ask a child to end, and kill it if it does not."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def train_on_digits(settings: DigitsSettings, folder: Path, kind: str, call: VerbCall = call_verb) -> dict[str, Any]:
    """Run all steps in `folder`, which is empty; returns exit statuses, seconds, accuracies and the certificate.

    Raises CompanionError naming the step that did not end as expected.
    """
    facts: dict[str, Any] = {"settings": vars(settings), "steps": []}

    def step(words: list[str], wanted: int = 0, stop_when: Callable[[], bool] | None = None) -> None:
        began = time.monotonic()
        status = call(words, stop_when)
        facts["steps"].append({"verb": words[0], "status": status, "seconds": time.monotonic() - began})
        if status != wanted:
            raise CompanionError(f"{words[0]} ended with status {status} instead of {wanted}; read its message above")

    archives = {name: folder / f"ILSVRC2012_{name}.tar" for name in ("img_train", "img_val")}
    step(["make-demo-data", "--output", str(folder)])
    step([
        *("index", "--dataset", "demo-digits", "--train-archive", str(archives["img_train"])),
        *("--val-archive", str(archives["img_val"]), "--devkit", str(folder / "ILSVRC2012_devkit_t12.tar.gz")),
        *("--output", str(folder / "data")),
    ])  # fmt: skip
    state, train = StateFolder(folder / "state"), _train_words(settings, folder, kind)
    step(train, 75, lambda: (state.heartbeat() or {}).get("step", 0) > 0)
    step(train)
    weights = [folder / "weights" / f"{form}.safetensors" for form in ("train", "deploy")]
    images = ("--val-manifest", str(folder / "data" / "val.parquet"), "--runs", str(folder / "runs"), "--device", kind)
    step([
        *("reparameterize", "--experiment", "digits", "--weights", str(weights[0]), "--protocol", PROTOCOL),
        *("--output", str(folder / "reparameterization.csv"), *images),
    ])  # fmt: skip
    both = [word for path in weights for word in ("--weights", str(path), PROTOCOL)]
    step([
        *("evaluate", "--experiment", "digits", *both, "--predictions", str(folder / "predictions")),
        *("--output", str(folder / "accuracy.csv"), *images),
    ])  # fmt: skip
    facts["attempts"] = [entry.get("reason") for entry in state.attempts() if entry.get("event") == "end"]
    facts["top1_pct"] = {row["form"]: row["top1_pct"] for row in read_rows(folder / "accuracy.csv", "accuracy")}
    (certificate,) = read_rows(folder / "reparameterization.csv", "reparameterization")
    facts["certificate_passed"] = certificate["passed"]
    return facts


def _train_words(settings: DigitsSettings, folder: Path, kind: str) -> list[str]:
    recipe = Recipe(
        epochs=settings.epochs,
        global_batch_size=64,
        batch_norm_batch_size=64,
        input_px=32,
        augmentation="shift",
        validation=PROTOCOL,
        ema_decay=0.9,
    )
    return [
        *("train", "--dataset", "demo-digits", "--model", settings.model, "--width", str(settings.width)),
        *("--recipe-name", "digits", "--recipe", recipe.to_json(), "--device", kind, "--workers", "0"),
        *("--train-manifest", str(folder / "data" / "train.parquet")),
        *("--val-manifest", str(folder / "data" / "val.parquet"), "--state", str(folder / "state")),
        *("--output", str(folder / "weights" / "train.safetensors")),
        *("--history", str(folder / "weights" / "history.csv")),
    ]
