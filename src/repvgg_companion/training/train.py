"""The verb `train`: start, continue or publish one training.

Exit status 0 only if both outputs are complete, 75 after a stop with the state saved. A finished training is published
again in about a second, without importing torch.

The path of a training: `run` here, `attempt` (one process, from the newest checkpoint to the end), `loop` (epochs and
steps), `step` (one optimizer step).
"""

import argparse
import contextlib
import os
import sys

from repvgg_companion.data.decode import POLICIES
from repvgg_companion.errors import CompanionError, Interrupted
from repvgg_companion.training.job.launch import granted_gpus, run_processes, under_torchrun
from repvgg_companion.training.job.publish import is_final, publish, tidy
from repvgg_companion.training.job.state import StateFolder
from repvgg_companion.training.job.stop import DEFAULT_MARGIN_S, StopWatch
from repvgg_companion.training.request import TrainRequest, read_request


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `train` verb."""
    parser.add_argument("--experiment", default="", help="recorded in the attempt log")
    parser.add_argument("--dataset", required=True, help="name of the dataset; part of the training digest")
    parser.add_argument("--model", required=True, help="such as RepVGG-A0 or RepVGG-B0_identity-only")
    parser.add_argument("--width", type=float, default=1.0, help="factor on every stage's width")
    parser.add_argument("--num-classes", type=int, help="checked against the manifests if given")
    parser.add_argument("--recipe-name", required=True, help="name under which results list the recipe")
    parser.add_argument("--recipe", required=True, help="settings: JSON, a JSON file, or FILE#KEY")
    parser.add_argument("--training-digest", help="8 hexadecimal digits; computed if not given")
    parser.add_argument("--seed", type=int, default=0, help="of initial weights, order, augmentation and dropout")
    parser.add_argument(
        "--backbone",
        metavar="TRAIN.safetensors",
        help="the train file that the network (for PSPNet: its backbone) starts from, or random",
    )
    parser.add_argument("--train-manifest", required=True, help="training images, from the verb index")
    parser.add_argument("--val-manifest", required=True, help="validation images, from the verb index")
    parser.add_argument("--state", required=True, help="folder of the training state; keep it until the end")
    parser.add_argument("--output", required=True, help="train.safetensors, published last")
    parser.add_argument("--history", required=True, help="history.csv, one row per epoch")
    _add_machine_arguments(parser)


def _add_machine_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that say where and how long to train; on a CPU they do not affect the weights."""
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default=os.environ.get("REPVGG_COMPANION_DEVICE", "auto"),
        help="auto follows --gpus; the variable REPVGG_COMPANION_DEVICE sets another default",
    )
    parser.add_argument("--gpus", type=int, help="GPUs to take on this machine, one process each; 0 for none")
    parser.add_argument("--processes", type=int, default=1, help="processes to start on a CPU (gloo)")
    parser.add_argument(
        "--undecodable",
        choices=POLICIES,
        default="stop",
        help="default: stop; count replaces such an image by the next one and notes it with the weights",
    )
    parser.add_argument("--workers", type=int, help="loader processes; does not affect the weights")
    parser.add_argument(
        "--deadline",
        type=float,
        metavar="MINUTES",
        default=os.environ.get("REPVGG_COMPANION_DEADLINE"),
        help="stop with a checkpoint before this many minutes have passed; without it Slurm is asked for its limit",
    )
    parser.add_argument(
        "--time-limit",
        type=float,
        metavar="MINUTES",
        help="time limit of a scheduler other than Slurm; used if there is neither --deadline nor a limit of Slurm",
    )
    parser.add_argument(
        "--deadline-margin",
        type=float,
        metavar="SECONDS",
        default=os.environ.get("REPVGG_COMPANION_DEADLINE_MARGIN", DEFAULT_MARGIN_S),
        help="time that the last checkpoint and the exit need",
    )
    parser.add_argument(
        "--checkpoint-minutes",
        type=float,
        default=os.environ.get("REPVGG_COMPANION_CHECKPOINT_MINUTES", "10"),
        help="minutes between two checkpoints",
    )
    parser.add_argument(
        "--checkpoint-steps",
        type=int,
        default=os.environ.get("REPVGG_COMPANION_CHECKPOINT_STEPS", "0"),
        help="also write one after this many steps; 0 for never",
    )
    parser.add_argument("--keep-checkpoints", type=int, default=2, help="newest checkpoints to keep")


def run(arguments: argparse.Namespace) -> int | None:
    """Train, continue, or only publish; raises Interrupted after a requested stop with the state saved."""
    request = read_request(arguments)
    state, stop = StateFolder(request.state), StopWatch(request.time_limits)
    if under_torchrun():
        return _run_in_group(request, state, stop)
    placement = request.placement
    with state.locked():
        finished = _is_finished(request, state)
        if not finished and placement.process_count == 1:
            with granted_gpus(1) if placement.on_gpus else contextlib.nullcontext():
                _run_alone(request, state, stop)
            finished = True
        if finished:
            publish(state, request.identity, request.weights, request.history)
            return None
    with granted_gpus(placement.process_count) if placement.on_gpus else contextlib.nullcontext():
        run_processes(placement.process_count, sys.argv[1:], state)
    return None


def _run_alone(request: TrainRequest, state: StateFolder, stop: StopWatch) -> None:
    """Train in this process; imports torch only now, when its GPU is chosen."""
    from repvgg_companion.training.attempt import attempt
    from repvgg_companion.training.job.processes import join

    stop.listen()
    attempt(request, state, stop, join(request.placement.device_name, request.recipe.micro_batches))


def _run_in_group(request: TrainRequest, state: StateFolder, stop: StopWatch) -> int | None:
    """One process of several, under torchrun: the leading one holds the state and tells the others what to do."""
    from repvgg_companion.training.attempt import attempt
    from repvgg_companion.training.job.processes import join, leave

    stop.listen()
    group = join(request.placement.device_name, request.recipe.micro_batches)
    try:
        with contextlib.ExitStack() as held:
            task, refusal = "", None
            if group.leads:
                try:
                    held.enter_context(state.locked())
                    task = "publish" if _is_finished(request, state) else "train"
                except CompanionError as error:
                    task, refusal = "nothing", error
            task = group.share(task)
            if task == "nothing":
                if refusal is not None:
                    raise refusal
                return 2
            if task == "train":
                try:
                    attempt(request, state, stop, group)
                except Interrupted:
                    if group.leads:
                        raise
                    return 75  # only the leading process reports it
            if group.leads:
                publish(state, request.identity, request.weights, request.history)
    finally:
        leave(group)
    return None


def _is_finished(request: TrainRequest, state: StateFolder) -> bool:
    """Whether only publishing is left; if so, removes what a kill right after the last write may have left."""
    if not (state.check(request.training, request.recipe) and is_final(state)):
        return False
    tidy(state)
    return True
