"""A training that is stopped anywhere and continued gives the bits of one that was never stopped."""

import csv
import json
import os
import shutil
import signal
import time

import pytest
from safetensors import safe_open

from repvgg_companion.files import sha256_of_file
from repvgg_companion.training.job.checkpoint import checkpoint_files
from repvgg_companion.training.job.state import StateFolder

STEPS = 20  # 320 images, batches of 32, two epochs


def history_without_times(path):
    with path.open(newline="") as stream:
        return [
            {name: value for name, value in row.items() if name not in ("images_per_s", "elapsed_s")}
            for row in csv.DictReader(stream)
        ]


def wait_for_step(trainings, name, process, step):
    """Wait until the heartbeat of a running training shows `step`; False if it ended before."""
    path = trainings.state(name) / "heartbeat"
    while process.poll() is None:
        if path.exists() and len(words := path.read_text().split()) == 4 and int(words[1]) >= step:
            return True
        time.sleep(0.002)
    return False


def executed(attempts):
    """Optimizer steps executed, over all attempts."""
    return sum(line["to_step"] - line["from_step"] for line in attempts if line["event"] == "end")


def test_two_runs_give_the_same_file_and_another_seed_another(trainings):
    assert trainings.train_here("one") == trainings.train_here("two") == trainings.train_here("other", seed=1) == 0
    one, two, other = (sha256_of_file(trainings.weights(name)) for name in ("one", "two", "other"))
    assert one == two
    assert one != other
    rows = history_without_times(trainings.history("one"))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert rows == history_without_times(trainings.history("two"))


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        signal.SIGKILL,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, marks=pytest.mark.slow),
    ],
)
def test_a_kill_in_the_middle_changes_nothing(trainings, number):
    """Slowed down by checkpoints at every step, killed in the first epoch and again in the second."""
    assert trainings.train_here("whole") == 0
    for step in (4, 14):
        process = trainings.start("killed", "--checkpoint-steps", 1)
        assert wait_for_step(trainings, "killed", process, step)
        process.send_signal(number)
        said = "".join(process.communicate(timeout=60))
        assert process.returncode == (-9 if number == signal.SIGKILL else 75), said
        assert not trainings.weights("killed").exists() and not trainings.history("killed").exists()
    trainings.train("killed")
    assert sha256_of_file(trainings.weights("killed")) == sha256_of_file(trainings.weights("whole"))
    assert history_without_times(trainings.history("killed")) == history_without_times(trainings.history("whole"))

    attempts = trainings.attempts("killed")
    ends = [line for line in attempts if line["event"] == "end"]
    assert [line["reason"] for line in ends] == [
        *(2 * ["killed" if number == signal.SIGKILL else signal.Signals(number).name]),
        "finished",
    ]
    assert [line["attempt"] for line in ends] == [1, 2, 3]
    assert 0 < ends[0]["to_step"] <= ends[1]["to_step"] < ends[2]["to_step"] == STEPS
    assert ends[1]["from_step"] > 0 and ends[2]["from_step"] > ends[1]["from_step"], "it started from nothing"
    # A kill costs at most one checkpoint interval (here one step, and one more that the heartbeat had already seen).
    assert executed(attempts) <= STEPS + 2 * 2


def test_restarting_from_nothing_would_be_seen(trainings):
    """The attempt log tells a continued run from one that started again."""
    process = trainings.start("killed", "--checkpoint-steps", 1)
    assert wait_for_step(trainings, "killed", process, 10)
    process.kill()
    process.communicate()
    for file in checkpoint_files(trainings.state("killed")):
        file.path.unlink()
    trainings.train("killed")
    assert executed(trainings.attempts("killed")) >= STEPS + 9


@pytest.mark.parametrize(
    "settings",
    [
        {"ema_decay": 0.9, "nesterov": True, "label_smoothing": 0.1},
        {"mixup_alpha": 0.2, "batch_norm_batch_size": 8},
        {"precision": "bf16", "memory_format": "contiguous"},
        {"precision": "fp16", "input_px": 32},
    ],
    ids=["average", "mixup", "bf16", "fp16-scaler"],
)
def test_whatever_the_recipe_uses_is_in_the_checkpoint(trainings, settings):
    """Stopped by a deadline that passes at once, in the middle of an epoch, and continued in another process."""
    recipe = {"epochs": 1, "warmup_epochs": 0.0} | settings
    assert trainings.train_here("whole", recipe=recipe) == 0
    process = trainings.start("stopped", "--checkpoint-steps", 1, recipe=recipe)
    assert wait_for_step(trainings, "stopped", process, 3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75, process.stderr.read()
    trainings.train("stopped", recipe=recipe)
    assert trainings.attempts("stopped")[-1]["from_step"] >= 3
    assert sha256_of_file(trainings.weights("stopped")) == sha256_of_file(trainings.weights("whole"))


def test_what_decides_bits_is_decided_once(trainings):
    """`auto` and 0 threads are resolved at the first start and stored; another machine's choice does not matter."""
    recipe = {"memory_format": "auto", "precision": "auto", "threads": 0}
    process = trainings.start("run", "--checkpoint-steps", 1, recipe=recipe)
    assert wait_for_step(trainings, "run", process, 3)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    path = trainings.state("run") / "state.json"
    decided = json.loads(path.read_text())["decided"]
    assert decided["precision"] in ("fp32", "bf16") and decided["memory_format"] in ("contiguous", "channels_last")
    assert decided["threads"] >= 1 and set(decided["memory_format_step_s"]) == {"contiguous", "channels_last"}
    before = path.read_bytes()
    os.environ["OMP_NUM_THREADS"], old = "3", os.environ.get("OMP_NUM_THREADS")
    try:
        trainings.train("run", recipe=recipe)
    finally:
        os.environ.pop("OMP_NUM_THREADS") if old is None else os.environ.update(OMP_NUM_THREADS=old)
    assert path.read_bytes() == before
    assert trainings.attempts("run")[-2]["threads"] == decided["threads"]


def test_a_damaged_checkpoint_falls_back_to_the_one_before(trainings):
    assert trainings.train_here("whole") == 0
    process = trainings.start("run", "--checkpoint-steps", 1, "--keep-checkpoints", 4)
    assert wait_for_step(trainings, "run", process, 7)
    process.kill()
    process.communicate()
    files = checkpoint_files(trainings.state("run"))
    assert len(files) == 4
    data = bytearray(files[0].path.read_bytes())
    data[len(data) // 2] ^= 1  # one flipped bit
    files[0].path.write_bytes(data)
    files[1].path.write_bytes(files[1].path.read_bytes()[:-7])  # cut off
    files[2].path.write_bytes(b"")
    # What else a power loss leaves: a heartbeat without content, a log cut off and filled up, half-written files.
    (trainings.state("run") / "heartbeat").write_bytes(b"")
    with (trainings.state("run") / "attempts.jsonl").open("ab") as stream:
        stream.write(b'{"attempt": 1, "ev\xff' + bytes(40))
    leftovers = [
        trainings.state("run") / ".checkpoint-000000007.partial.safetensors",
        trainings.state("run") / ".final.safetensors.x.partial" / ".tmpAbCdEf",
        trainings.weights("run").parent / ".train.safetensors.x.partial" / ".partial.safetensors",
    ]
    for path in leftovers:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    said = trainings.train("run")
    assert [f"checkpoint {file.path} is damaged" in said for file in files] == [True, True, True, False]
    state = StateFolder(trainings.state("run"))
    assert [line["from_step"] for line in state.attempts() if line["event"] == "start"] == [0, files[3].step]
    assert not any(path.exists() for path in leftovers)
    assert sha256_of_file(trainings.weights("run")) == sha256_of_file(trainings.weights("whole"))


def test_all_checkpoints_damaged_is_an_error_and_nothing_is_lost(trainings):
    process = trainings.start("run", "--checkpoint-steps", 1)
    assert wait_for_step(trainings, "run", process, 5)
    process.kill()
    process.communicate()
    files = checkpoint_files(trainings.state("run"))
    for file in files:
        file.path.write_bytes(b"nothing")
    said = trainings.train("run", status=2)
    assert "every checkpoint" in said and "Traceback" not in said
    assert [file.path for file in checkpoint_files(trainings.state("run"))] == [file.path for file in files]


def test_a_finished_training_is_published_again_without_torch(trainings):
    assert trainings.train_here("run") == 0
    digest = sha256_of_file(trainings.weights("run"))
    folder = trainings.weights("run").parent
    published = {path.name for path in folder.iterdir()}
    assert {"train.safetensors", "train.training.json"} < published
    shutil.rmtree(folder)  # as Snakemake prunes results
    import subprocess
    import sys

    from training_environment import clean_environment

    script = "import sys; from repvgg_companion.__main__ import main; status = main(sys.argv[1:]); "
    script += "sys.exit(status or 99 * ('torch' in sys.modules))"
    subprocess.run([sys.executable, "-c", script, *trainings.arguments("run")], env=clean_environment(), check=True)
    assert sha256_of_file(trainings.weights("run")) == digest
    assert {path.name for path in folder.iterdir()} == published
    assert len(trainings.attempts("run")) == 2, "publishing is no attempt"


def test_what_a_kill_right_after_the_seal_left_is_made_good(trainings):
    """Killed between the seal and the end of the log: published, closed and tidied up, not trained again."""
    assert trainings.train_here("run", "--checkpoint-steps", 3) == 0
    digest = sha256_of_file(trainings.weights("run"))
    state = trainings.state("run")
    lines = (state / "attempts.jsonl").read_text().splitlines(keepends=True)
    (state / "attempts.jsonl").write_text(lines[0])
    (state / "checkpoint-000000018-0123456789abcdef.safetensors").write_bytes(b"left")
    trainings.weights("run").unlink()
    assert trainings.train_here("run") == 0
    assert sha256_of_file(trainings.weights("run")) == digest
    assert not checkpoint_files(state)
    end = trainings.attempts("run")[-1]
    assert (end["reason"], end["from_step"], end["to_step"]) == ("finished", 0, STEPS)


def test_no_temporary_files_and_no_checkpoints_are_left(trainings):
    assert trainings.train_here("run", "--checkpoint-steps", 3) == 0
    left = sorted(path.name for path in trainings.state("run").iterdir())
    assert left == [
        "attempts.jsonl",
        "final-history.csv",
        "final.json",
        "final.safetensors",
        "heartbeat",
        "lock",
        "state.json",
    ]
    assert sorted(path.name for path in trainings.weights("run").parent.iterdir()) == [
        "history.csv",
        "train.safetensors",
        "train.training.json",
    ]
    facts = json.loads(trainings.weights("run").with_suffix(".training.json").read_text())
    (start, _) = trainings.attempts("run")
    assert facts["commits"] == [start["commit"]] and facts["torch"] == [start["torch"]] and facts["attempts"] == 1
    assert facts["training"]["model"] == "RepVGG-A0" and facts["recipe"]["epochs"] >= 1
    with safe_open(trainings.weights("run"), "pt") as stream:
        assert json.loads(stream.metadata()["repvgg_companion"])["model"] == "RepVGG-A0"


def test_fewer_validations_leave_the_weights_as_they_are(trainings):
    for name, every in (("each", 1), ("second", 2), ("last", 0)):
        assert trainings.train_here(name, recipe={"epochs": 3, "validate_every": every}) == 0
    each, second, last = (history_without_times(trainings.history(name)) for name in ("each", "second", "last"))
    accuracies = [row.pop("val_top1_pct") for row in each]
    assert all(accuracies)
    assert [row.pop("val_top1_pct") for row in second] == ["", *accuracies[1:]]
    assert [row.pop("val_top1_pct") for row in last] == ["", "", accuracies[2]]
    assert each == second == last
    tensors = []
    for name in ("each", "second", "last"):
        with safe_open(trainings.weights(name), "np") as file:
            tensors.append({key: file.get_tensor(key).tobytes() for key in file.keys()})  # noqa: SIM118
    assert tensors[0] == tensors[1] == tensors[2]
