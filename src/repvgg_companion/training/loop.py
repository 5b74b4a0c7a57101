"""The training loop: steps, validation, checkpoints and stops, until the state folder holds the finished weights.

A stop (signal, deadline, error) happens between two optimizer steps. The checkpoint written then, or last, is all that
the next attempt needs to give the same bits as a run that was never stopped.
"""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch

from repvgg_companion.contract import write_rows
from repvgg_companion.data.batches.training_input import TrainingInput
from repvgg_companion.errors import CompanionError, Interrupted
from repvgg_companion.progress import Progress
from repvgg_companion.training.job.checkpoint import write_checkpoint
from repvgg_companion.training.job.publish import HISTORY, WEIGHTS, noted, seal, tidy
from repvgg_companion.training.job.state import StateFolder
from repvgg_companion.training.job.stop import StopWatch
from repvgg_companion.training.out_of_memory import explain_out_of_memory
from repvgg_companion.training.request import TrainRequest
from repvgg_companion.training.schedule import learning_rate
from repvgg_companion.training.step import Learner, StepSums
from repvgg_companion.training.validate import Validation, count_right_answers
from repvgg_companion.weights_file import save_weights

LOSS_CHECK_STEPS = 50
"""Steps between two checks of the losses, which wait for the device; a single CPU process checks every step."""
CHECKPOINT_SHARE = 25
"""At the end of an epoch a checkpoint is written only after this many times its own cost in training."""
GUESSED_BYTES_PER_S = 200e6
CONTINUE, CHECKPOINT, STOP = 0, 1, 2


class Loop:
    """One attempt at a training; `run` returns when the state folder holds the finished weights."""

    def __init__(
        self,
        learner: Learner,
        training_input: TrainingInput,
        request: TrainRequest,
        state: StateFolder,
        stop: StopWatch,
    ) -> None:
        self.learner, self.input, self.state, self.stop = learner, training_input, state, stop
        self.identity, self.checkpoints = request.identity, request.checkpoints
        self.group, self.recipe = learner.group, learner.recipe
        self.validation = Validation(
            request.val_manifest, request.protocol, training_input.workers, request.undecodable
        )
        self.steps_per_epoch = training_input.steps_per_epoch(self.recipe.global_batch_size)
        self.total_steps = self.steps_per_epoch * self.recipe.epochs
        device = self.group.device
        self.step = 0  # optimizer steps done
        self.losses = torch.zeros(self.steps_per_epoch, device=device)  # of this epoch
        self.hits = torch.zeros((), dtype=torch.float64, device=device)
        self.checked = 0  # steps of this epoch whose loss was found finite
        self.history: list[dict[str, Any]] = []
        self.elapsed_s = self.epoch_s = 0.0
        self._listed: set[int] = set()  # undecodable images that are in the state's list
        self._last_loss: float | None = None  # as of the last check
        self._clock = self._last_checkpoint = time.monotonic()
        # A first guess of what a checkpoint costs, until one was written.
        size = sum(tensor.numel() * tensor.element_size() for tensor in learner.tensors().values())
        self._checkpoint_cost_s = 0.02 + size / GUESSED_BYTES_PER_S
        self._loss_check_steps = 1 if device.type == "cpu" and self.group.size == 1 else LOSS_CHECK_STEPS

    # -- running

    def run(self) -> None:
        """Train from the learner's state to the end; raises Interrupted after a requested stop."""
        remaining = (self.total_steps - self.step) * self.recipe.global_batch_size
        title = f"train {self.identity.model} seed {self.identity.seed}"
        progress = Progress(title, total=remaining, unit="images") if self.group.leads else contextlib.nullcontext()
        with progress as bar:
            while len(self.history) < self.recipe.epochs:
                epoch = len(self.history)
                for images, labels in self._batches(epoch):
                    self._list_undecodable()
                    self._one_step(epoch, images, labels)
                    if bar is not None:
                        bar.note(f"epoch {epoch + 1}/{self.recipe.epochs}, loss {self._shown_loss()}")
                        bar.advance(self.recipe.global_batch_size)
                    self._act_on(self._requested())
                self._end_epoch(epoch)
        if self.group.leads:
            self._finish()

    def _batches(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        done = self.step - epoch * self.steps_per_epoch
        if done == self.steps_per_epoch:
            return iter(())
        return self.input.batches(
            epoch, batch_size=self.recipe.global_batch_size, start=done, rank=self.group.rank, world=self.group.size
        )

    def _list_undecodable(self) -> None:
        """Write images that could not be decoded into the state and the log, each once per attempt."""
        found = self.input.undecodable.found
        for index in found.keys() - self._listed:
            self._listed.add(index)
            image = found[index]
            self.state.note_undecodable(index, image.where, image.reason)
            print(f"train: undecodable: {image.where}: {image.reason}", file=sys.stderr)

    def _one_step(self, epoch: int, images: torch.Tensor, labels: torch.Tensor) -> None:
        place = self.step - epoch * self.steps_per_epoch
        rate = learning_rate(self.recipe, self.step, self.steps_per_epoch)
        with explain_out_of_memory(self.learner, images):
            sums = StepSums(self.losses[place], self.hits)
            self.learner.step(images, labels, step=self.step, rate=rate, sums=sums)
        self.step += 1
        if (place + 1) % self._loss_check_steps == 0 or place + 1 == self.steps_per_epoch:
            self._check_losses()
        self._beat()

    def _beat(self) -> None:
        if self.group.leads:
            self.state.beat(self.step, self._last_loss)

    def _check_losses(self) -> None:
        """Check that every loss since the last check is finite; all processes check after the same step."""
        end = self.step - len(self.history) * self.steps_per_epoch
        if end <= self.checked:
            return
        # A network that has overflowed stays so. Losses are summed since only one process may have seen the overflow.
        seen = self.group.sum(self.losses[self.checked : end].clone()).cpu()
        finite = torch.isfinite(seen)
        if not bool(finite.all()):
            place = self.checked + int((~finite).nonzero()[0])
            raise CompanionError(
                f"the loss is not finite at epoch {len(self.history) + 1}, step {place + 1} of {self.steps_per_epoch} "
                f"(optimizer step {len(self.history) * self.steps_per_epoch + place + 1}); lower learning_rate or "
                f"lengthen warmup_epochs in the recipe; the checkpoints before it are kept in {self.state.folder}"
            )
        self._last_loss = float(seen[-1])
        self.checked = end

    def _shown_loss(self) -> str:
        return "-" if self._last_loss is None else f"{self._last_loss:.3f}"

    # -- stops and checkpoints

    def _requested(self) -> int:
        if self.stop.signalled or (self.group.leads and self.stop.reason()):
            return STOP
        if self.group.leads:
            if time.monotonic() - self._last_checkpoint >= self.checkpoints.seconds:
                return CHECKPOINT
            if self.checkpoints.steps and self.step % self.checkpoints.steps == 0:
                return CHECKPOINT
        return CONTINUE

    def _act_on(self, requested: int) -> None:
        agreed = self.group.agree(requested)
        if agreed == CHECKPOINT:
            self.checkpoint()
        elif agreed == STOP:
            self.checkpoint()
            reason = self.group.share(self.stop.reason() or "signal to another process")
            if self.group.leads:
                self.state.end_attempt(reason, self.step)
            raise Interrupted(
                f"stopped by {reason} after step {self.step} of {self.total_steps}; the state is in "
                f"{self.state.folder}, start the same command again to continue"
            )

    def checkpoint(self) -> None:
        """Write everything the next step depends on; call it in every process."""
        self._check_losses()
        self._tick()
        losses, hits = self.group.sum(self.losses.clone()), self.group.sum(self.hits.clone())
        if self.group.leads:
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
            write_checkpoint(self.state.folder, self.step, tensors, facts, keep=self.checkpoints.keep)
            self._checkpoint_cost_s = time.monotonic() - started
        self._last_checkpoint = time.monotonic()

    def _require_finite(self, tensors: dict[str, torch.Tensor]) -> None:
        """An overflow shows in the loss only a step later; it must not displace a good checkpoint."""
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise CompanionError(
                    f"{name} is not finite after optimizer step {self.step} (epoch {len(self.history) + 1}); lower "
                    f"learning_rate or lengthen warmup_epochs in the recipe; the checkpoints before it are kept in "
                    f"{self.state.folder}"
                )

    def restore(self, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        """Continue from a checkpoint; call it in every process, with the same one.

        Raises CompanionError if it belongs to another training.
        """
        for name, own in self._training().items():
            if facts["training"].get(name) != own:
                raise CompanionError(
                    f"the newest checkpoint in {self.state.folder} belongs to another training ({name} "
                    f"{facts['training'].get(name)}, not {own}); move it to where it came from"
                )
        losses, hits = tensors.pop("epoch/losses"), tensors.pop("epoch/hits")
        self.learner.restore(tensors, facts)
        if self.group.leads:  # they are sums over all processes, so only one process continues them
            self.losses.copy_(losses)
            self.hits.copy_(hits)
        self.step, self.history = facts["step"], facts["history"]
        self.elapsed_s, self.epoch_s = facts["elapsed_s"], facts["epoch_s"]
        self.checked = self.step - len(self.history) * self.steps_per_epoch

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
        due = time.monotonic() - self._last_checkpoint > CHECKPOINT_SHARE * self._checkpoint_cost_s
        if self.group.share(due):
            self.checkpoint()
        self.learner.share_statistics()
        training_s = self.epoch_s
        validated = None
        if self.recipe.validates_after(epoch + 1):
            right = count_right_answers(
                self.learner.result, self.validation, self.recipe, self.group, self._between_batches
            )
            validated = 100 * right / len(self.validation.manifest)
            self._tick()
        losses, hits = self.group.sum(self.losses.clone()), self.group.sum(self.hits.clone())
        images = self.steps_per_epoch * self.recipe.global_batch_size
        self.history.append(
            {
                "epoch": epoch + 1,
                "learning_rate": learning_rate(self.recipe, epoch * self.steps_per_epoch, self.steps_per_epoch),
                "train_loss": float(losses.double().mean()),
                "train_top1_pct": 100 * float(hits) / images,
                "val_top1_pct": validated,
                "images_per_s": images / max(training_s, 1e-9),
                "elapsed_s": self.elapsed_s,
            }
        )
        self.losses.zero_()
        self.hits.zero_()
        self.checked = 0
        self.epoch_s = 0.0

    def _between_batches(self) -> None:
        """Show a heartbeat and stop if requested; no checkpoint, since validation changes nothing."""
        self._beat()
        self._act_on(STOP if self._requested() == STOP else CONTINUE)

    def _finish(self) -> None:
        state = self.state
        save_weights(state.folder / WEIGHTS, self.learner.result.state_dict(), noted(self.identity, state))
        write_rows(state.folder / HISTORY, "history", self.history)
        seal(state, {"steps": self.total_steps})
        state.end_attempt("finished", self.step)
        tidy(state)
