"""The training loop: a learner, its input and its state folder in, finished weights and history out, or a clean stop.

A stop (signal, deadline, error) happens between two optimizer steps. What is written then, or was written last, is all
that the next attempt needs to give the same bits as a run that was never stopped.
"""

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from repvgg_companion.contract import write_rows
from repvgg_companion.data.batches.training_input import TrainingInput
from repvgg_companion.data.manifest import Manifest
from repvgg_companion.data.protocols import parse_protocol
from repvgg_companion.errors import CompanionError, Interrupted
from repvgg_companion.identity import WeightsIdentity
from repvgg_companion.progress import Progress
from repvgg_companion.training.job.checkpoint import write_checkpoint
from repvgg_companion.training.job.processes import World
from repvgg_companion.training.job.publish import HISTORY, WEIGHTS, noted, seal, tidy
from repvgg_companion.training.job.state import StateFolder
from repvgg_companion.training.job.stop import StopWatch
from repvgg_companion.training.memory import explain_out_of_memory
from repvgg_companion.training.recipe import Recipe
from repvgg_companion.training.schedule import learning_rate
from repvgg_companion.training.step import Learner
from repvgg_companion.training.validate import count_right_answers
from repvgg_companion.weights_file import save_weights

LOOK_STEPS = 50
"""Steps between two looks at the loss, which wait for the device; on a CPU every step is looked at."""
CHECKPOINT_SHARE = 25
"""At the end of an epoch a checkpoint is written only after this many times its own cost in training."""
GUESSED_BYTES_PER_S = 200e6
CONTINUE, CHECKPOINT, STOP = 0, 1, 2


@dataclass
class Keeping:
    """How often and how many checkpoints: none of it decides bits, so it stands in no recipe."""

    seconds: float = 600.0
    steps: int = 0
    keep: int = 2


class Loop:
    """One attempt at a training; `run` returns when the state folder holds the finished weights."""

    def __init__(
        self,
        learner: Learner,
        training_input: TrainingInput,
        val_manifest: Manifest,
        identity: WeightsIdentity,
        state: StateFolder,
        stop: StopWatch,
        keeping: Keeping,
        *,
        workers: int = 0,
    ) -> None:
        self.learner, self.input, self.val_manifest = learner, training_input, val_manifest
        self.identity, self.state, self.stop, self.keeping = identity, state, stop, keeping
        self.workers = workers
        self.world: World = learner.world
        self.recipe: Recipe = learner.recipe
        self.protocol = parse_protocol(self.recipe.validation)
        self.steps_per_epoch = training_input.steps_per_epoch(self.recipe.global_batch_size)
        self.total_steps = self.steps_per_epoch * self.recipe.epochs
        device = self.world.device
        self.step = 0  # optimizer steps done
        self.losses = torch.zeros(self.steps_per_epoch, device=device)
        self.hits = torch.zeros((), dtype=torch.float64, device=device)
        self._listed: set[int] = set()  # undecodable images that are in the state's list
        self.looked = 0  # steps of this epoch whose loss was found finite
        self._last_loss: float | None = None  # as of the last look
        self.history: list[dict] = []
        self.elapsed_s = self.epoch_s = 0.0
        self._clock = time.monotonic()
        self._last_checkpoint = time.monotonic()
        # A first guess of what a checkpoint costs, until one has been written.
        size = sum(tensor.numel() * tensor.element_size() for tensor in learner.tensors().values())
        self._checkpoint_cost_s = 0.02 + size / GUESSED_BYTES_PER_S
        self._look_steps = 1 if device.type == "cpu" and self.world.size == 1 else LOOK_STEPS

    # -- running

    def run(self) -> None:
        """Train from where the learner stands to the end; raises Interrupted after a requested stop."""
        world, recipe = self.world, self.recipe
        remaining = (self.total_steps - self.step) * recipe.global_batch_size
        title = f"train {self.identity.model} seed {self.identity.seed}"
        with Progress(title, total=remaining, unit="images") if world.leads else contextlib.nullcontext() as progress:
            while len(self.history) < recipe.epochs:
                epoch = len(self.history)
                for images, labels in self._batches(epoch):
                    self._list_undecodable()
                    self._one_step(epoch, images, labels)
                    if progress is not None:
                        progress.note(f"epoch {epoch + 1}/{recipe.epochs}, loss {self._shown_loss()}")
                        progress.advance(recipe.global_batch_size)
                    self._heed(self._wish())
                self._end_epoch(epoch)
        if world.leads:
            self._finish()

    def _batches(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        done = self.step - epoch * self.steps_per_epoch
        if done == self.steps_per_epoch:
            return iter(())
        return self.input.batches(
            epoch, batch_size=self.recipe.global_batch_size, start=done, rank=self.world.rank, world=self.world.size
        )

    def _list_undecodable(self) -> None:
        """Write what the input could not decode into the state and the log, each image once an attempt."""
        found = self.input.undecodable.found
        for index in found.keys() - self._listed:
            self._listed.add(index)
            image = found[index]
            self.state.note_undecodable(index, image.where, image.reason)
            print(f"train: undecodable: {image.where}: {image.reason}", file=sys.stderr)

    def _one_step(self, epoch: int, images: torch.Tensor, labels: torch.Tensor) -> None:
        place = self.step - epoch * self.steps_per_epoch
        rate = learning_rate(self.recipe, self.step, self.steps_per_epoch)
        with explain_out_of_memory(self.learner, self.recipe, images):
            self.learner.step(images, labels, step=self.step, rate=rate, loss=self.losses[place], hits=self.hits)
        self.step += 1
        if (place + 1) % self._look_steps == 0 or place + 1 == self.steps_per_epoch:
            self._look()
        if self.world.leads:
            self.state.beat(self.step, self._last_loss)

    def _look(self) -> None:
        """Check that every loss since the last look is finite; all processes look after the same step."""
        end = self.step - len(self.history) * self.steps_per_epoch
        if end <= self.looked:
            return
        # A network that has overflowed stays so; its losses are exchanged because only one process may have seen it.
        seen = self.world.sum(self.losses[self.looked : end].clone()).cpu()
        finite = torch.isfinite(seen)
        if not bool(finite.all()):
            place = self.looked + int((~finite).nonzero()[0])
            raise CompanionError(
                f"the loss is not finite at epoch {len(self.history) + 1}, step {place + 1} of {self.steps_per_epoch} "
                f"(optimizer step {len(self.history) * self.steps_per_epoch + place + 1}); lower learning_rate or "
                f"lengthen warmup_epochs in the recipe; the checkpoints before it are kept in {self.state.folder}"
            )
        self._last_loss = float(seen[-1])
        self.looked = end

    def _shown_loss(self) -> str:
        return "-" if self._last_loss is None else f"{self._last_loss:.3f}"

    # -- stopping and keeping

    def _wish(self) -> int:
        if self.stop.signalled or (self.world.leads and self.stop.reason()):
            return STOP
        if self.world.leads:
            if time.monotonic() - self._last_checkpoint >= self.keeping.seconds:
                return CHECKPOINT
            if self.keeping.steps and self.step % self.keeping.steps == 0:
                return CHECKPOINT
        return CONTINUE

    def _heed(self, wish: int) -> None:
        agreed = self.world.agree(wish)
        if agreed == CHECKPOINT:
            self.checkpoint()
        elif agreed == STOP:
            self.checkpoint()
            reason = self.world.share(self.stop.reason() or "signal to another process")
            if self.world.leads:
                self.state.end_attempt(reason, self.step)
            raise Interrupted(
                f"stopped by {reason} after step {self.step} of {self.total_steps}; the state is in "
                f"{self.state.folder}, start the same command again to continue"
            )

    def checkpoint(self) -> None:
        """Write all that the next step depends on; call it in every process."""
        self._look()
        self._tick()
        losses, hits = self.world.sum(self.losses.clone()), self.world.sum(self.hits.clone())
        if self.world.leads:
            started = time.monotonic()
            facts = {
                "step": self.step,
                "history": self.history,
                "elapsed_s": self.elapsed_s,
                "epoch_s": self.epoch_s,
                "training": self._training(),
                **self.learner.facts(),
            }
            tensors = self.learner.tensors() | {"epoch/losses": losses, "epoch/hits": hits}
            self._require_finite(tensors)
            write_checkpoint(self.state.folder, self.step, tensors, facts, keep=self.keeping.keep)
            self._checkpoint_cost_s = time.monotonic() - started
        self._last_checkpoint = time.monotonic()

    def _require_finite(self, tensors: dict[str, torch.Tensor]) -> None:
        """An update that overflowed shows in the loss only a step later; it must not push out a good checkpoint."""
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise CompanionError(
                    f"{name} is not finite after optimizer step {self.step} (epoch {len(self.history) + 1}); lower "
                    f"learning_rate or lengthen warmup_epochs in the recipe; the checkpoints before it are kept in "
                    f"{self.state.folder}"
                )

    def restore(self, tensors: dict[str, torch.Tensor], facts: dict) -> None:
        """Continue from a checkpoint; call it in every process, with the same one.

        Raises CompanionError where it belongs to another training.
        """
        for name, own in self._training().items():
            if facts["training"].get(name) != own:
                raise CompanionError(
                    f"the newest checkpoint in {self.state.folder} belongs to another training ({name} "
                    f"{facts['training'].get(name)}, not {own}); move it to where it came from"
                )
        losses, hits = tensors.pop("epoch/losses"), tensors.pop("epoch/hits")
        self.learner.restore(tensors, facts)
        if self.world.leads:  # sums over all processes, so one process carries them on
            self.losses.copy_(losses)
            self.hits.copy_(hits)
        self.step, self.history = facts["step"], facts["history"]
        self.elapsed_s, self.epoch_s = facts["elapsed_s"], facts["epoch_s"]
        self.looked = self.step - len(self.history) * self.steps_per_epoch

    def _training(self) -> dict[str, str]:
        identity = self.identity
        return {
            "model": identity.model,
            "training_digest": identity.training_digest,
            "seed": identity.seed,
            "dataset_sha256": identity.dataset_sha256,
        }

    def _tick(self) -> None:
        now = time.monotonic()
        self.elapsed_s += now - self._clock
        self.epoch_s += now - self._clock
        self._clock = now

    # -- ends

    def _end_epoch(self, epoch: int) -> None:
        self._tick()
        spent = self.world.share(time.monotonic() - self._last_checkpoint > CHECKPOINT_SHARE * self._checkpoint_cost_s)
        if spent:
            self.checkpoint()
        self.learner.share_statistics()
        training_s = self.epoch_s
        right = count_right_answers(
            self.learner.result,
            self.val_manifest,
            self.protocol,
            self.world,
            precision=self.learner.precision,
            channels_last=self.learner.channels_last,
            workers=self.workers,
            undecodable=self.input.undecodable.policy,
            between_batches=lambda: self._heed(STOP if self._wish() == STOP else CONTINUE),
        )
        self._tick()
        losses, hits = self.world.sum(self.losses.clone()), self.world.sum(self.hits.clone())
        images = self.steps_per_epoch * self.recipe.global_batch_size
        self.history.append(
            {
                "epoch": epoch + 1,
                "learning_rate": learning_rate(self.recipe, epoch * self.steps_per_epoch, self.steps_per_epoch),
                "train_loss": float(losses.double().mean()),
                "train_top1_pct": 100 * float(hits) / images,
                "val_top1_pct": 100 * right / len(self.val_manifest),
                "images_per_s": images / max(training_s, 1e-9),
                "elapsed_s": self.elapsed_s,
            }
        )
        self.losses.zero_()
        self.hits.zero_()
        self.looked = 0
        self.epoch_s = 0.0

    def _finish(self) -> None:
        state = self.state
        save_weights(state.folder / WEIGHTS, self.learner.result.state_dict(), noted(self.identity, state))
        write_rows(state.folder / HISTORY, "history", self.history)
        seal(state, {"steps": self.total_steps})
        state.end_attempt("finished", self.step)
        tidy(state)
