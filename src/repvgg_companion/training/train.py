"""The verb `train`: manifests, a recipe and a state folder in; `train.safetensors` and `history.csv` out.

Exit status 0 only when both outputs are complete, 75 after a stop with the state saved. A training that is already
finished is published again in about a second, without importing torch.
"""

import argparse
import contextlib
import os
import sys
from typing import TYPE_CHECKING

from repvgg_companion.data.decode import POLICIES
from repvgg_companion.errors import CompanionError, Interrupted
from repvgg_companion.training.job.launch import granted_gpus, run_processes, under_torchrun, visible_gpus
from repvgg_companion.training.job.publish import is_final, publish, tidy
from repvgg_companion.training.job.state import StateFolder
from repvgg_companion.training.job.stop import DEFAULT_MARGIN_S, StopWatch
from repvgg_companion.training.order import Order, read_order

if TYPE_CHECKING:
    from repvgg_companion.data.batches.training_input import TrainingInput
    from repvgg_companion.training.job.processes import World
    from repvgg_companion.training.loop import Loop
    from repvgg_companion.training.step import Learner


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `train` verb."""
    parser.add_argument("--experiment", default="", help="recorded in the attempt log")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--width", type=float, default=1.0, help="factor on every stage's width")
    parser.add_argument("--num-classes", type=int, help="checked against the manifests where it is given")
    parser.add_argument("--recipe-name", required=True)
    parser.add_argument("--recipe", required=True, help="the recipe's settings as JSON")
    parser.add_argument("--training-digest", help="8 hexadecimal digits; computed where it is not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--backbone",
        metavar="TRAIN.safetensors",
        help="for PSPNet: the classification network that its backbone starts from, or the word random",
    )
    parser.add_argument("--train-manifest", required=True)
    parser.add_argument("--val-manifest", required=True)
    parser.add_argument("--state", required=True, help="folder of the training state; keep it until the end")
    parser.add_argument("--output", required=True, help="train.safetensors, published last")
    parser.add_argument("--history", required=True, help="history.csv, one row per epoch")
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
    parser.add_argument("--workers", type=int, help="loader processes; decides no bits")
    parser.add_argument(
        "--deadline",
        type=float,
        metavar="MINUTES",
        default=os.environ.get("REPVGG_COMPANION_DEADLINE"),
        help="stop with a checkpoint before so many minutes have passed; without it Slurm is asked for its limit",
    )
    parser.add_argument(
        "--time-limit",
        type=float,
        metavar="MINUTES",
        help="what a scheduler other than Slurm allows this job; heeded where neither --deadline nor Slurm says more",
    )
    parser.add_argument(
        "--deadline-margin",
        type=float,
        metavar="SECONDS",
        default=os.environ.get("REPVGG_COMPANION_DEADLINE_MARGIN", DEFAULT_MARGIN_S),
        help="what the last checkpoint and the way out need",
    )
    parser.add_argument(
        "--checkpoint-minutes", type=float, default=os.environ.get("REPVGG_COMPANION_CHECKPOINT_MINUTES", 10.0)
    )
    parser.add_argument(
        "--checkpoint-steps",
        type=int,
        default=os.environ.get("REPVGG_COMPANION_CHECKPOINT_STEPS", 0),
        help="also after every so many steps; 0 for none",
    )
    parser.add_argument("--keep-checkpoints", type=int, default=2)


def run(arguments: argparse.Namespace) -> int | None:
    """Train, continue, or only publish; raises Interrupted after a requested stop with the state saved."""
    order = read_order(arguments)
    state = StateFolder(arguments.state)
    stop = StopWatch(arguments.deadline, arguments.deadline_margin, time_limit_minutes=arguments.time_limit)
    if under_torchrun():
        return _run_among_processes(arguments, order, state, stop)
    with state.locked():
        if _is_finished(order, state):
            publish(state, order.identity, arguments.output, arguments.history)
            return None
        on_gpus = arguments.device != "cpu" and (arguments.gpus or 0) > 0
        processes = arguments.gpus if on_gpus else arguments.processes
        if processes == 1:
            with granted_gpus(1) if on_gpus else contextlib.nullcontext():
                stop.listen()
                world = _join(arguments, order)
                _attempt(arguments, order, state, stop, world)
            publish(state, order.identity, arguments.output, arguments.history)
            return None
    with granted_gpus(processes) if on_gpus else contextlib.nullcontext():
        run_processes(processes, sys.argv[1:], state)


def _is_finished(order: Order, state: StateFolder) -> bool:
    """Whether only publishing is left; tidies up what a kill right after the last write of a training left."""
    if not (state.check(order.training, order.recipe) and is_final(state)):
        return False
    tidy(state)
    return True


def _run_among_processes(
    arguments: argparse.Namespace, order: Order, state: StateFolder, stop: StopWatch
) -> int | None:
    """The part of one process under torchrun: the leading one holds the state, and tells the others what is to do."""
    stop.listen()
    world = _join(arguments, order)
    from repvgg_companion.training.job.processes import leave

    try:
        with contextlib.ExitStack() as held:
            task, refusal = "", None
            if world.leads:
                try:
                    held.enter_context(state.locked())
                    task = "publish" if _is_finished(order, state) else "train"
                except CompanionError as error:
                    task, refusal = "nothing", error
            task = world.share(task)
            if task == "nothing":
                if refusal is not None:
                    raise refusal
                return 2
            if task == "train":
                try:
                    _attempt(arguments, order, state, stop, world)
                except Interrupted:
                    if world.leads:
                        raise
                    return 75  # one process says it for all
            if world.leads:
                publish(state, order.identity, arguments.output, arguments.history)
    finally:
        leave(world)
    return None


def _join(arguments: argparse.Namespace, order: Order) -> "World":
    from repvgg_companion.training.job.processes import join

    device = arguments.device
    if device == "auto" and arguments.gpus is not None:
        device = "cuda" if arguments.gpus else "cpu"
    return join(device, order.recipe.micro_batches)


def _attempt(arguments: argparse.Namespace, order: Order, state: StateFolder, stop: StopWatch, world: "World") -> None:
    """Train from the newest checkpoint to the end, or to a stop."""
    import torch

    from repvgg_companion.runs import commit
    from repvgg_companion.training.loop import Keeping, Loop
    from repvgg_companion.training.memory import explain_failures

    learner = _learner(arguments, order, state, world)
    workers = arguments.workers if arguments.workers is not None else _default_workers(world, len(order.train_manifest))
    training_input = _input(arguments, order, workers, pin_memory=world.device.type == "cuda")
    keeping = Keeping(60 * arguments.checkpoint_minutes, arguments.checkpoint_steps, arguments.keep_checkpoints)
    loop = Loop(learner, training_input, order.val_manifest, order.identity, state, stop, keeping, workers=workers)
    damaged = _continue(loop, state, world)
    if world.leads:
        state.start_attempt(
            loop.step,
            experiment=arguments.experiment,
            commit=commit(),
            torch=torch.__version__,
            device=str(world.device),
            node=os.environ.get("SLURMD_NODENAME"),
            gpus_granted=len(visible_gpus()),
            processes=world.size,
            steps_per_epoch=loop.steps_per_epoch,
            threads=torch.get_num_threads(),
            damaged_checkpoints=damaged,
        )
    try:
        with explain_failures(world):
            loop.run()
    except Interrupted:
        raise
    except (CompanionError, OSError) as error:
        if world.leads:
            state.end_attempt("error", loop.step, message=str(error))
        raise


def _learner(arguments: argparse.Namespace, order: Order, state: StateFolder, world: "World") -> "Learner":
    """The network with its first weights, and what the first start decided; decides it where this is the first."""
    import torch

    from repvgg_companion.models.build import build_model
    from repvgg_companion.training.decide import decide
    from repvgg_companion.training.kernels import choose_cpu_kernels
    from repvgg_companion.training.memory import explain_failures
    from repvgg_companion.training.step import Learner, derived_seed

    recipe, identity = order.recipe, order.identity
    if recipe.deterministic:
        _be_deterministic()
    torch.default_generator.manual_seed(derived_seed(arguments.seed, "initial weights"))
    network = build_model(identity.model, num_classes=identity.num_classes, width=identity.width)
    if order.backbone:
        from repvgg_companion.models.pspnet import start_from_backbone
        from repvgg_companion.weights_file import load_weights

        start_from_backbone(network, identity.model, *load_weights(order.backbone), order.backbone)
    network = choose_cpu_kernels(network, world.device)

    stored = world.share(state.stored() if world.leads else None)
    if stored is None:
        decided = decide(recipe, network.to(world.device), world.device, identity.num_classes) if world.leads else None
        decided = world.share(decided)
        if world.leads:
            state.begin(order.training, recipe, decided, training_digest=identity.training_digest)
    else:
        decided = stored["decided"]
    torch.set_num_threads(decided["threads"])
    with explain_failures(world):
        return Learner(network, recipe, world, num_classes=identity.num_classes, seed=arguments.seed, decided=decided)


def _input(arguments: argparse.Namespace, order: Order, workers: int, *, pin_memory: bool) -> "TrainingInput":
    from repvgg_companion.data.batches.segmentation_input import SegmentationInput
    from repvgg_companion.data.batches.training_input import TrainingInput

    return (TrainingInput if order.train_manifest.maps is None else SegmentationInput)(
        order.train_manifest,
        input_px=order.recipe.input_px,
        augmentation=order.recipe.augmentation,
        decoder=order.recipe.decoder,
        seed=arguments.seed,
        workers=workers,
        undecodable=arguments.undecodable,
        pin_memory=pin_memory,
    )


def _continue(loop: "Loop", state: StateFolder, world: "World") -> int:
    """Take every process to the newest checkpoint that is whole, where there is one; returns how many are damaged."""
    from repvgg_companion.training.job.checkpoint import read_newest, remove_leftovers

    damaged: list[str] = []
    if world.leads:
        remove_leftovers(state.folder)
    found = world.share(read_newest(state.folder, damaged.append) if world.leads else None)
    if found is not None:
        _, tensors, facts = found
        loop.restore(tensors, facts)
    for sentence in damaged:
        print(f"train: {sentence}", file=sys.stderr)
    return len(damaged)


def _be_deterministic() -> None:
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def _default_workers(world: "World", images: int) -> int:
    """Loader processes per training process: none for a set that fits in memory, else the cores that are free."""
    if images <= SMALL_SET:
        return 0
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(16, len(os.sched_getaffinity(0)) // local - (0 if world.device.type == "cuda" else 1)))


SMALL_SET = 20_000
"""Up to so many images the training process reads them itself, without loader processes."""
