"""One optimizer step, which never waits for the device.

The global batch is cut into micro-batches of the size that batch norm sees. Each process takes an equal, contiguous
share of them; gradients are exchanged once, during the last one. Running statistics are updated from micro-batch 0 of
the global batch only (the official code takes those of the first GPU), which is the same for any number of processes.
"""

import copy
import hashlib
from typing import Any, NamedTuple

import torch
from torch import nn

from repvgg_companion.data.batches.normalize import normalize
from repvgg_companion.errors import CompanionError
from repvgg_companion.machine.torch_device import autocast
from repvgg_companion.models.start import freeze
from repvgg_companion.training import objective
from repvgg_companion.training.gradients import GradientBuckets, GradientTree
from repvgg_companion.training.job.processes import ProcessGroup
from repvgg_companion.training.optimizer import Sgd, parameter_groups
from repvgg_companion.training.recipe import Recipe


def derived_seed(*parts: object) -> int:
    """A 63-bit seed from any parts, such as seed, step and micro-batch: the same parts always give the same seed."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


class StepSums(NamedTuple):
    """Scalars on the device that a step adds to: its mean loss and its number of right answers."""

    loss: torch.Tensor
    hits: torch.Tensor


class Learner:
    """A network with all that a step changes: weights, running statistics, momenta, moving average, scaler.

    `recipe` leaves nothing to the machine (`Recipe.decided`). `tensors()` and `facts()` are the whole state; `restore`
    takes them back.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, group: ProcessGroup, *, num_classes: int, seed: int) -> None:
        self.recipe, self.group, self.seed = recipe, group, seed
        layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.network = network.to(group.device, memory_format=layout).train()  # type: ignore[call-overload]
        freeze(self.network, recipe.frozen_stages)
        self.optimizer = Sgd(parameter_groups(self.network, recipe), recipe)
        parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.buckets = GradientBuckets(parameters, group.size) if group.size > 1 else None
        self.average = copy.deepcopy(self.network).requires_grad_(False).eval() if recipe.ema_decay else None
        self.scaler = torch.amp.GradScaler(group.device.type) if recipe.precision == "fp16" else None
        self.segments = hasattr(network, "auxiliary")
        self.objective = objective.segmentation if self.segments else objective.classification
        self._mixup = None
        if recipe.mixup_alpha:
            from torchvision.transforms import v2

            self._mixup = v2.MixUp(alpha=recipe.mixup_alpha, num_classes=num_classes)
        self._forward = torch.compile(self.network) if recipe.compile else self.network
        self._norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        own = recipe.micro_batches // group.size
        self.tree = GradientTree(parameters) if own > 1 else None
        self.own_micro_batches = range(group.rank * own, (group.rank + 1) * own)

    def step(self, images: torch.Tensor, labels: torch.Tensor, *, step: int, rate: float, sums: StepSums) -> None:
        """Take optimizer step `step` (counted from 0) at learning rate `rate`.

        `images` uint8 [n, 3, px, px] and `labels` (int64 [n]; for segmentation uint8 [n, px, px]) are this process's
        share of the global batch. Adds this process's part of the mean loss and its number of right answers (for
        segmentation: the shares of right pixels) to `sums`.
        """
        size = self.recipe.batch_norm_batch_size
        self.optimizer.forget_gradients()
        labels = labels.to(self.group.device, non_blocking=True)
        for place, micro_batch in enumerate(self.own_micro_batches):
            part = slice(place * size, (place + 1) * size)
            self._seed(step, micro_batch)
            self._update_statistics(micro_batch == 0)
            self._backward(images[part], labels[part], sums)
        if self.tree is not None:
            self.tree.finish()
        if self.buckets is not None:
            self.buckets.finish()
        if self.scaler is None:
            self.optimizer.step(rate)
        else:
            self.scaler.step(self.optimizer, rate)  # type: ignore[arg-type]
            self.scaler.update()
        if self.average is not None:
            self._update_average(self.average, step)

    def _backward(self, images: torch.Tensor, labels: torch.Tensor, sums: StepSums) -> None:
        """The forward and backward pass of one micro-batch; its gradients go into the tree or the buckets."""
        inputs, targets = self.normalized(images), labels
        if self._mixup is not None:
            inputs, targets = self._mixup(inputs, targets)
        with autocast(self.recipe.precision, self.group.device):
            outputs = self._forward(inputs)
        loss, right = self.objective(outputs, targets, self.recipe)
        loss = loss / self.recipe.micro_batches
        if self.buckets is not None and self.tree is None:
            self.buckets.exchange_during_backward()
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()
        if self.tree is not None:
            self.tree.take()
        with torch.no_grad():
            sums.loss.add_(loss.detach())
            sums.hits.add_(right)

    def normalized(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 images as the network takes them: float32, normalised, on the device, in the memory format."""
        return normalize(images, device=self.group.device, channels_last=self.recipe.channels_last)

    def _seed(self, step: int, micro_batch: int) -> None:
        # Dropout and mixup draw from generators seeded by seed, step and micro-batch only, so any number of processes
        # and a run that was stopped and continued draw the same.
        seed = derived_seed(self.seed, step, micro_batch)
        torch.default_generator.manual_seed(seed)
        if self.group.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _update_statistics(self, wanted: bool) -> None:
        for module in self._norms:
            module.track_running_stats = wanted

    def _update_average(self, averaged: nn.Module, step: int) -> None:
        # The decay grows towards its value: otherwise the average would long remember the random initial weights.
        decay = min(self.recipe.ema_decay, (1 + step) / (10 + step))
        own, average = self.network.state_dict(), averaged.state_dict()
        floating = [name for name, tensor in own.items() if tensor.is_floating_point()]
        with torch.no_grad():
            torch.optim.swa_utils.get_ema_multi_avg_fn(decay)(
                [average[name] for name in floating], [own[name] for name in floating], None
            )
            for name in own.keys() - set(floating):
                average[name].copy_(own[name])

    # -- state

    @property
    def result(self) -> nn.Module:
        """The network to validate and publish: the moving average if any, else the network itself."""
        return self.network if self.average is None else self.average

    def share_statistics(self) -> None:
        """Copy the running statistics of the leading process to the others, which do not update theirs."""
        for network in (self.network, self.average):
            if network is not None:
                self.group.share_tensors(list(network.buffers()))

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor that the next step depends on, by name."""
        found = {f"network/{name}": tensor for name, tensor in self.network.state_dict().items()}
        found |= {f"momentum/{name}": tensor for name, tensor in self.optimizer.momenta()}
        if self.average is not None:
            found |= {f"average/{name}": tensor for name, tensor in self.average.state_dict().items()}
        found["random/cpu"] = torch.get_rng_state()
        if self.group.device.type == "cuda":
            found["random/cuda"] = torch.cuda.get_rng_state(self.group.device)
        return found

    def facts(self) -> dict[str, Any]:
        """The rest that the next step depends on, as JSON."""
        return {} if self.scaler is None else {"scaler": self.scaler.state_dict()}

    def restore(self, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        """Take back `tensors()` and `facts()`; raises CompanionError if they belong to another network."""
        own = {name: tensor for name, tensor in self.tensors().items() if not name.startswith("random/")}
        given = {name: tensor for name, tensor in tensors.items() if not name.startswith("random/")}
        shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
        if unlike := sorted(shapes.items() ^ {name: tuple(tensor.shape) for name, tensor in given.items()}.items()):
            raise CompanionError(
                f"the checkpoint belongs to another network: {unlike[0][0]} differs; give this training its own --state"
            )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(given[name])
        torch.set_rng_state(tensors["random/cpu"])
        if self.group.device.type == "cuda" and "random/cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random/cuda"], self.group.device)
        if self.scaler is not None and "scaler" in facts:
            self.scaler.load_state_dict(facts["scaler"])
