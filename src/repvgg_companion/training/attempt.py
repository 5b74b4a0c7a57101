"""One attempt at a training, in one of its processes: from the newest checkpoint to the end, or to a stop."""

import os
import sys

import torch

from repvgg_companion.data.batches.segmentation_input import SegmentationInput
from repvgg_companion.data.batches.training_input import TrainingInput
from repvgg_companion.errors import CompanionError, Interrupted
from repvgg_companion.machine.cpu import usable_cores
from repvgg_companion.machine.nvml import visible_gpus
from repvgg_companion.machine.torch_device import set_training_convolutions
from repvgg_companion.models.build import build_model
from repvgg_companion.models.names import require_model
from repvgg_companion.models.start import start_from
from repvgg_companion.runs import commit
from repvgg_companion.training.cpu_kernels import avoid_faulty_and_slow_cpu_kernels
from repvgg_companion.training.decide import decide
from repvgg_companion.training.job.checkpoint import read_newest, remove_leftovers
from repvgg_companion.training.job.processes import ProcessGroup
from repvgg_companion.training.job.state import StateFolder
from repvgg_companion.training.job.stop import StopWatch
from repvgg_companion.training.loop import Loop
from repvgg_companion.training.out_of_memory import explain_failures
from repvgg_companion.training.request import TrainRequest
from repvgg_companion.training.step import Learner, derived_seed
from repvgg_companion.weights_file import load_weights

SMALL_SET = 20_000
"""Up to this many images the training process reads them itself, without loader processes."""


def attempt(request: TrainRequest, state: StateFolder, stop: StopWatch, group: ProcessGroup) -> None:
    """Train until the state folder holds the finished weights; raises Interrupted after a requested stop."""
    with explain_failures(group):
        learner = _learner(request, state, group)
    loop = Loop(learner, _training_input(request, group), request, state, stop)
    damaged = _continue(loop, state, group)
    if group.leads:
        state.start_attempt(
            loop.step,
            experiment=request.experiment,
            commit=commit(),
            torch=torch.__version__,
            device=str(group.device),
            node=os.environ.get("SLURMD_NODENAME"),
            gpus_granted=len(visible_gpus()),
            processes=group.size,
            steps_per_epoch=loop.steps_per_epoch,
            threads=torch.get_num_threads(),
            damaged_checkpoints=damaged,
        )
    try:
        with explain_failures(group):
            loop.run()
    except Interrupted:
        raise
    except (CompanionError, OSError) as error:
        if group.leads:
            state.end_attempt("error", loop.step, message=str(error))
        raise


def _learner(request: TrainRequest, state: StateFolder, group: ProcessGroup) -> Learner:
    """The network with its initial weights, and the decisions of the first start, which this may be."""
    recipe, identity = request.recipe, request.identity
    if recipe.deterministic and group.device.type == "cuda" and require_model(identity.model).family == "PSPNet":
        raise CompanionError(
            f"{identity.model} cannot be trained with deterministic: true on a GPU, since torch has no deterministic "
            "backward pass of its pooling; set deterministic to false in the recipe"
        )
    set_training_convolutions(group.device, deterministic=recipe.deterministic)
    torch.default_generator.manual_seed(derived_seed(request.seed, "initial weights"))
    network = build_model(identity.model, num_classes=identity.num_classes, width=identity.width)
    if request.backbone:
        start_from(network, identity.model, *load_weights(request.backbone), request.backbone)
    network = avoid_faulty_and_slow_cpu_kernels(network, group.device)

    stored = group.share(state.stored() if group.leads else None)
    if stored is not None:
        decisions = stored["decided"]
    else:
        decisions = None
        if group.leads:
            decisions = decide(recipe, network.to(group.device), group.device, identity.num_classes)
            state.begin(request.training, recipe, decisions, training_digest=identity.training_digest)
        decisions = group.share(decisions)
    torch.set_num_threads(decisions["threads"])
    return Learner(network, recipe.decided(decisions), group, num_classes=identity.num_classes, seed=request.seed)


def _training_input(request: TrainRequest, group: ProcessGroup) -> TrainingInput:
    recipe, images, workers = request.recipe, request.train_manifest, request.placement.workers
    return (TrainingInput if images.maps is None else SegmentationInput)(
        images,
        input_px=recipe.input_px,
        augmentation=recipe.augmentation,
        decoder=recipe.decoder,
        seed=request.seed,
        workers=_default_workers(group, len(images)) if workers is None else workers,
        undecodable=request.undecodable,
        pin_memory=group.device.type == "cuda",
    )


def _default_workers(group: ProcessGroup, images: int) -> int:
    """Loader processes of one training process: none for a small set, else its share of the cores."""
    if images <= SMALL_SET:
        return 0
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(16, usable_cores() // local - (0 if group.device.type == "cuda" else 1)))


def _continue(loop: Loop, state: StateFolder, group: ProcessGroup) -> int:
    """Restore the newest undamaged checkpoint, if any, in every process; returns the number of damaged ones."""
    damaged: list[str] = []
    if group.leads:
        remove_leftovers(state.folder)
    found = group.share(read_newest(state.folder, damaged.append) if group.leads else None)
    if found is not None:
        _, tensors, facts = found
        loop.restore(tensors, facts)
    for sentence in damaged:
        print(f"train: {sentence}", file=sys.stderr)
    return len(damaged)
