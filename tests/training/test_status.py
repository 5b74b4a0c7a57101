"""`status` tells a running, stopped, killed, failed and finished training apart."""

import json
import signal

from test_resume import wait_for_step

from repvgg_companion.__main__ import main
from repvgg_companion.training.job.status import status_of


def test_every_state_is_told_apart(trainings, capsys):
    assert main(["status", "--state", str(trainings.folder / "state")]) == 2
    assert "holds no training" in capsys.readouterr().err

    process = trainings.start("run", "--checkpoint-steps", 1, recipe={"epochs": 300})
    assert wait_for_step(trainings, "run", process, 13)
    status = status_of(trainings.state("run"))
    assert status.state == "running" and status.epoch >= 2 and 13 <= status.step < status.total_steps == 3000
    assert status.left_s > 0 and status.checkpoint_age_s < 60 and 0 < status.loss < 20
    assert status.host == json.loads((trainings.state("run") / "holder.json").read_text())["host"]
    process.kill()
    process.communicate()
    assert status_of(trainings.state("run")).state == "killed"

    process = trainings.start("run", "--checkpoint-steps", 1, recipe={"epochs": 300})
    assert wait_for_step(trainings, "run", process, status.step + 1)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert status_of(trainings.state("run")).state == "stopped"

    assert trainings.train_here("done") == 0
    status = status_of(trainings.state("done"))
    assert (status.state, status.step, status.epoch, status.left_s) == ("finished", 20, 2, None)

    state = trainings.state("run")
    with (state / "attempts.jsonl").open("a") as stream:
        stream.write(
            json.dumps({"attempt": 3, "event": "end", "reason": "error", "message": "the disk is full"}) + "\n"
        )
    capsys.readouterr()
    assert main(["status", "--state", str(trainings.folder / "state")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:3]] == [["training", "state"], ["done", "finished"], ["run", "failed"]]
    assert lines[3] == "run: the disk is full"

    (trainings.folder / "state/bad").mkdir()
    (trainings.folder / "state/bad/state.json").write_text("{")
    (trainings.folder / "state/other").mkdir()
    (trainings.folder / "state/other/state.json").write_text("{}")
    assert main(["status", "--state", str(trainings.folder / "state")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:5]] == [
        ["bad", "unreadable"],
        ["done", "finished"],
        ["other", "unreadable"],
        ["run", "failed"],
    ]
    assert "state.json is damaged" in lines[5] and "is not the state of a training" in lines[6]
