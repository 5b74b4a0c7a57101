"""The order of work: the groups of networks that are measured, under which conditions, most important first.

A group is what is measured in turn in one process; every group holds the anchor, so that networks of different groups
can be compared through it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

from repvgg_companion.errors import CompanionError
from repvgg_companion.machine.cpu import usable_cores
from repvgg_companion.machine.device import choose_device, device_label
from repvgg_companion.speed.harness import LIMITS, Limits
from repvgg_companion.speed.networks import Measurable, ModelForm, forms_of, has_deploy
from repvgg_companion.speed.speed_settings import ENGINES, LEAST_ROUNDS, PAPER_BATCH_SIZE, SpeedSettings

_PROCESS_MIB = 900
"""Torch itself, its thread pools and the scratch space of the largest convolutions."""
_FEATURE_MAPS_MIB = 60
"""A generous bound on live feature maps and copies of one 224 px image in fp32."""


@dataclass(frozen=True)
class Condition:
    """How networks run while they are measured: the columns that all networks of a group share."""

    protocol: str
    precision: str
    memory_format: str
    backend: str
    batch_size: int

    @property
    def label(self) -> str:
        """One short text, such as `interleaved fp32 channels_last eager batch 1`."""
        return f"{self.protocol} {self.precision} {self.memory_format} {self.backend} batch {self.batch_size}"


@dataclass(frozen=True)
class SpeedGroup:
    """Networks measured in turn under one condition, the anchor first."""

    name: str
    condition: Condition
    networks: tuple[Measurable, ...]


@dataclass(frozen=True)
class Method:
    """How all groups of a run are measured on this device; `kind` is cpu or cuda."""

    kind: str
    threads: int
    rounds: int
    limits: Limits
    seed: int = 0
    input_px: int | None = None
    roofline: bool = True
    group_seconds: float = 0.0
    """The rounds of a group end after these seconds, but not before `least_rounds`; 0 for no such limit."""
    least_rounds: int = LEAST_ROUNDS
    emulated: tuple[str, ...] | None = None
    """The only models measured (at batch 1) in bf16 on a CPU without such instructions; None for all."""

    @classmethod
    def of(cls, settings: SpeedSettings) -> Self:
        """The method of speed settings; 0 in a setting means the default of the device.

        Raises CompanionError if there is no such device.
        """
        kind = choose_device(settings.device)
        base = LIMITS[kind]
        limits = replace(
            base,
            warm_up_seconds=settings.warm_up_seconds or base.warm_up_seconds,
            drift_pct=settings.drift_limit_pct or base.drift_pct,
            spread_pct=settings.spread_limit_pct or base.spread_pct,
        )
        threads = settings.threads or usable_cores()
        return cls(kind, threads, settings.rounds, limits, settings.seed, settings.input_px, settings.roofline)

    @property
    def device(self) -> str:
        """The label of the device."""
        return device_label(self.kind, cores=self.threads)


def conditions(settings: SpeedSettings) -> list[Condition]:
    """Every condition of the settings. The paper's protocol fixes batch, memory format, backend and fp32 (or TF32)."""
    found = []
    for protocol in settings.protocols:
        if protocol == "paper":
            precisions = [name for name in settings.precisions if name in ("fp32", "tf32")] or ["fp32"]
            found += [Condition(protocol, name, "contiguous", "eager", PAPER_BATCH_SIZE) for name in precisions]
            continue
        found += [
            Condition(protocol, precision, memory_format, backend, batch_size)
            for precision in settings.precisions
            for backend in settings.backends
            for memory_format in (("contiguous",) if backend in ENGINES else settings.memory_formats)
            for batch_size in settings.batch_sizes
        ]
    return found


def networks(settings: SpeedSettings) -> list[list[ModelForm]]:
    """The networks without the anchor; those of one model, which are compared most, stand together."""
    anchor = anchor_of(settings)
    units = []
    for models, forms in ((settings.models, settings.forms), (settings.baselines, settings.baseline_forms)):
        for model in models:
            unit = [ModelForm(model, form, settings.width, settings.num_classes) for form in forms_of(model, forms)]
            units.append([network for network in unit if network != anchor])
    return [unit for unit in units if unit]


def anchor_of(settings: SpeedSettings) -> ModelForm:
    """The network that every group holds, in deploy form if it has one."""
    forms = settings.baseline_forms if settings.anchor in settings.baselines else settings.forms
    form = "deploy" if "deploy" in forms and has_deploy(settings.anchor) else "train"
    return ModelForm(settings.anchor, form, settings.width, settings.num_classes)


def groups(settings: SpeedSettings) -> list[list[ModelForm]]:
    """Groups of at most `group_size` networks, the anchor first in each, within the memory limit on a CPU.

    Raises CompanionError if one network with the anchor already needs more memory than the limit.
    """
    anchor = anchor_of(settings)
    room = settings.group_size - 1
    fixed = _PROCESS_MIB + _weights_mib(anchor)
    batch = max(condition.batch_size for condition in conditions(settings))
    px = max(network.input_px(settings.input_px) for unit in networks(settings) for network in unit)
    fixed += _FEATURE_MAPS_MIB * batch * (px / 224) ** 2
    packed: list[list[ModelForm]] = []
    for unit in _pieces(settings, room):
        need = sum(map(_weights_mib, unit))
        if settings.device != "cuda" and fixed + need > settings.memory_limit_mib and len(unit) > 1:
            packed.extend([network] for network in unit)
            continue
        fitting = (
            chosen
            for chosen in packed
            if len(chosen) + len(unit) <= room
            and fixed + need + sum(map(_weights_mib, chosen)) <= settings.memory_limit_mib
        )
        chosen = next(fitting, None)
        if chosen is None:
            packed.append(list(unit))
        else:
            chosen.extend(unit)
    if settings.device == "cpu":
        for chosen in packed:
            if (need := fixed + sum(map(_weights_mib, chosen))) > settings.memory_limit_mib:
                raise CompanionError(
                    f"measuring {chosen[0].name} beside the anchor takes about {need:.0f} MiB, above memory_limit_mib "
                    f"{settings.memory_limit_mib}; raise it, or lower the batch size"
                )
    return [[anchor, *chosen] for chosen in packed]


def programme(settings: SpeedSettings) -> Iterator[SpeedGroup]:
    """All groups under all conditions in the order of the settings; a group runs by all backends before the next one.

    So a programme that is cut leaves complete rows of its first networks.
    """
    packed = groups(settings)
    by_setting: dict[tuple, list[Condition]] = {}
    for condition in conditions(settings):
        form = "" if condition.backend in ENGINES else condition.memory_format
        shared = (condition.protocol, condition.precision, form or settings.memory_formats[0], condition.batch_size)
        by_setting.setdefault(shared, []).append(condition)
    for backends in by_setting.values():
        for number, members in enumerate(packed, start=1):
            for condition in backends:
                yield SpeedGroup(f"{condition.label} #{number}", condition, tuple(members))


def _pieces(settings: SpeedSettings, room: int) -> Iterator[list[ModelForm]]:
    for unit in networks(settings):
        for start in range(0, len(unit), room):
            yield unit[start : start + room]


def _weights_mib(network: ModelForm) -> float:
    return network.params() * 4 / 2**20
