"""The second evaluation of what was measured here, from the rows and the raw samples of each device."""

import math
from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pyarrow import parquet
from scipy import stats
from second_published import Paper, counted
from second_reading import NO_SAMPLE, Answer, Quantity, Row, Term, beyond, judged, ranked, read, row_of, terms_of

from repvgg_companion.models.names import require_model

DISTURBED = ("busy", "throttled", "drift", "spread", "few samples")
FIGURE_3 = ("figure3-1", "figure3-2", "figure3-3", "figure3-4")
MIXED = "best of each"
SHAPE = ("batch_size", "channels", "resolution_px")
PAPER_SHAPE = ("32", "2048", "56")


class Interval(NamedTuple):
    value: float
    low: float
    high: float


# --- statistics, written down again -----------------------------------------------------------------------------------
def median_interval(values: Sequence[float], starts: Sequence[int]) -> Interval:
    """The median with its bootstrap interval, resampled within each start of the process, with the published seed."""
    numbers, labels, n = np.asarray(values), np.asarray(starts), len(values)
    if 1 < n < 6:  # too few to resample: Student's interval of the logarithms, around the median
        half = stats.t.ppf(0.975, n - 1) * np.std(np.log(numbers), ddof=1) / math.sqrt(n)
        middle = float(np.median(numbers))
        return Interval(middle, middle * math.exp(-half), middle * math.exp(half))
    draw = np.random.default_rng(20210111).integers
    parts = [numbers[labels == label] for label in sorted(set(starts))]
    resampled = np.hstack([part[draw(0, len(part), (2000, len(part)))] for part in parts])
    tail = stats.norm.cdf(stats.t.ppf(0.025, n - 1) * math.sqrt(n / (n - 1))) if n > 1 else 0.0
    low, high = np.quantile(np.median(resampled, axis=1), [tail, 1 - tail])
    return Interval(float(np.median(numbers)), float(low), float(high))


def quotient(first: Interval, second: Interval) -> Interval:
    """The ratio of two intervals; their relative errors are added in quadrature."""
    value = first.value / second.value
    down = math.hypot(math.log(first.value / first.low), math.log(second.high / second.value))
    up = math.hypot(math.log(first.high / first.value), math.log(second.value / second.low))
    return Interval(value, value * math.exp(-down), value * math.exp(up))


@cache
def timed_samples(path: Path) -> dict[tuple, list[dict]]:
    """The timed samples of a run by network and setting, in the order of the file."""
    found: dict[tuple, list[dict]] = {}
    for sample in parquet.read_table(path).to_pylist():
        if sample["role"] == "timed":
            found.setdefault(key_of(sample), []).append(sample)
    return found


def key_of(row: dict) -> tuple:
    names = ("model", "form", "protocol", "precision", "memory_format", "backend", "batch_size", "input_px")
    return tuple(str(row[name]) for name in names)


@cache
def paired(path: Path, top: tuple, bottom: tuple) -> Interval | None:
    """How many times as fast `top` is, round by round; if they share no group, through a network of both groups."""
    by_key = timed_samples(path)
    groups = [{one["group"] for one in by_key[key]} for key in (top, bottom)]
    if groups[0] & groups[1]:
        return _round_by_round(by_key[top], by_key[bottom], groups[0] & groups[1])
    for key, members in by_key.items():
        held = {one["group"] for one in members}
        same = (key[2], key[3], key[5]) == (top[2], top[3], top[5])  # protocol, precision and backend
        if same and held & groups[0] and held & groups[1]:
            return quotient(_round_by_round(by_key[top], members, held & groups[0]),
                            _round_by_round(by_key[bottom], members, held & groups[1]))  # fmt: skip
    return None


def _round_by_round(top: list[dict], bottom: list[dict], groups: set[str]) -> Interval:
    seconds = [{(one["start"], one["group"], one["round"]): one["seconds"] for one in part if one["group"] in groups}
               for part in (top, bottom)]  # fmt: skip
    rounds = sorted(set(seconds[0]) & set(seconds[1]))
    return median_interval([seconds[1][one] / seconds[0][one] for one in rounds], [one[0] for one in rounds])


# --- one device -------------------------------------------------------------------------------------------------------
class Setting(NamedTuple):
    """Rows of one run under one setting, by network and form."""

    precision: str
    backend: str
    run: str
    protocol: str
    batch: str
    memory_format: str
    rows: dict[tuple[str, str], Row]


class Device:
    """A folder below `results/devices`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, folder.name

    @cache  # noqa: B019  # a few devices a test
    def table(self, name: str) -> list[Row]:
        path = self.folder / f"{name}.csv"
        return read(path) if path.exists() else []

    @cached_property
    def settings(self) -> list[Setting]:
        """Every setting with networks of the paper at its input size, also mixed over the memory formats."""
        found: dict[tuple, dict[tuple[str, str], Row]] = {}
        for row in self.table("speed"):
            spec = require_model(row["model"])
            size = (float(row["width"]), int(row["num_classes"]), int(row["input_px"]))
            if row["examples_per_s"] and size == (1, spec.num_classes, spec.input_px):
                names = ("precision", "backend", "run_id", "protocol", "batch_size", "memory_format")
                found.setdefault(tuple(row[name] for name in names), {})[row["model"], row["form"]] = row
        return [Setting(*key, rows) for key, rows in found.items()] + self._mixed(found)

    @staticmethod
    def _mixed(settings: dict[tuple, dict[tuple[str, str], Row]]) -> list[Setting]:
        merged: dict[tuple, list[dict]] = {}
        for key, rows in settings.items():
            merged.setdefault(key[:-1], []).append(rows)
        mixed = []
        for key, parts in merged.items():
            if len(parts) > 1:
                networks = dict.fromkeys(network for part in parts for network in part)
                best = {
                    network: max(
                        (part[network] for part in parts if network in part),
                        key=lambda row: float(row["examples_per_s"]),
                    )
                    for network in networks
                }
                mixed.append(Setting(*key, MIXED, best))
        return mixed

    def chosen(self, needed: set[tuple[str, str]]) -> list[Setting]:
        """The setting of each precision and backend that has all that is needed and is closest to the paper's."""
        best: dict[tuple[str, str], Setting] = {}
        for one in sorted((one for one in self.settings if needed <= set(one.rows)), key=lambda one: (
                0 if needed else -len({model for model, _ in one.rows}), one.batch != "128", -int(one.batch),
                one.protocol != "interleaved", -len(one.rows), [-ord(letter) for letter in one.run],
                -sum(float(row["examples_per_s"]) for row in one.rows.values()), one.memory_format)):  # fmt: skip
            best.setdefault((one.precision, one.backend), one)
        return [best[key] for key in sorted(best)]

    def ratio(self, top: Row, bottom: Row) -> Interval:
        """From the raw samples where they give the rows' speeds, else from the intervals of the rows."""
        path = self.folder / "speed" / self.name / f"{top['run_id']}.parquet"
        keys = [key_of(row) for row in (top, bottom)]
        if top["run_id"] == bottom["run_id"] and all(key in timed_samples(path) for key in keys):
            medians = [np.median([one["seconds"] for one in timed_samples(path)[key]]) for key in keys]
            speeds = [int(row["batch_size"]) / median for row, median in zip((top, bottom), medians, strict=True)]
            agree = all(abs(speed / float(row["examples_per_s"]) - 1) < 1e-6
                        for row, speed in zip((top, bottom), speeds, strict=True))  # fmt: skip
            if agree and (found := paired(path, *keys)):
                return found
        return quotient(*(Interval(*(float(row[name]) for name in (
            "examples_per_s", "low_examples_per_s", "high_examples_per_s"))) for row in (top, bottom)))  # fmt: skip


def flags_of(row: Row) -> list[str]:
    """What disturbed a row beyond the limits of its measurement."""
    return [flag for flag in row["flags"].split("; ") if flag.startswith(DISTURBED)]


def source_of(row: Row) -> str:
    words = f"{row['run_id']} {row['model']} {row['form']} {row['precision']} {row['backend']}"
    flagged = f" (flagged: {row['flags']})" if row["flags"] else ""
    return f"speed.csv {words} batch {row['batch_size']}{flagged}"


# --- the rows of the ledger -------------------------------------------------------------------------------------------
def device_rows(paper: Paper, folder: Path) -> Iterator[Row]:
    """The rows of the class *measured here*."""
    devices = [Device(path) for path in sorted(folder.iterdir()) if path.is_dir()] if folder.is_dir() else []
    for claim in paper.table("claims"):
        terms = terms_of(claim["condition"])
        for device in devices:
            if any(one.name == "density" for term in terms for one in term.quantities):
                yield from _kernel_rows(claim, terms, device)
            elif any(term.check in ("residual-block-doubles-memory", "batch-128-saturates") for term in terms):
                yield from filter(None, [_memory_row(claim, device), _saturation_row(claim, device)])
            else:
                yield from _speed_rows(claim, terms, device, paper)


def _speed_rows(claim: Row, terms: list[Term], device: Device, paper: Paper) -> Iterator[Row]:
    needed = {(one.model, one.form) for term in terms for one in term.quantities if one.name == "speed"}
    ranks = any(term.check == "wino-ranks-speed" for term in terms)
    for setting in device.chosen(needed) if needed or ranks else []:
        answers = [_ranking(term, setting, paper) if term.check == "wino-ranks-speed"
                   else _speed_answer(term, setting, device) for term in terms]  # fmt: skip
        differs = [f"batch {setting.batch}"] if setting.batch != "128" else []
        differs += [setting.precision] if setting.precision != "fp32" else []
        row = row_of(claim, answers, len(terms), evidence_class="measured here", source="this companion",
                     setting=f"{setting.precision}, {setting.backend}, {setting.memory_format}, batch {setting.batch}",
                     device=device.name, differs="; ".join(differs))  # fmt: skip
        if row:
            yield row


def _speed_answer(term: Term, setting: Setting, device: Device) -> Answer | None:
    """A comparison of two speeds, judged by their ratio; counts are factors of it."""
    if term.check or term.is_count or any(one.name not in ("speed", "flops") for one in term.quantities):
        return None
    rows = {one: setting.rows[one.model, one.form] for one in term.quantities if one.name == "speed"}
    (top, first), (bottom, second) = rows.items()
    ratio = device.ratio(first, second)
    counts = {one: counted(one) for one in term.quantities if one.is_count}
    values = {one: found.value for one, found in counts.items()} | {bottom: float(second["examples_per_s"])}
    values[top] = ratio.value * values[bottom]
    unit = 1.0 if term.operator == "ratio" else values[bottom]
    factor = term.measured(values) / unit / ratio.value
    low, high = factor * ratio.low, factor * ratio.high
    bounds = [(symbol, bound / unit) for symbol, bound in term.bounds(values)]
    number = judged(low, high, bounds)
    is_band = len(bounds) == 2
    null = 1.0 if is_band or (term.operator == "ratio" and term.has_constant_bound) else bounds[0][1]
    inference = beyond(low, high, null, upward=is_band or bounds[0][0][0] == ">")
    papers = "1080ti" in device.name.replace("-", "").lower() and setting[:2] == ("fp32", "eager")
    if inference == "contradicted" and not (papers and setting.batch == "128"):
        inference = "not met"
    reason = f"this device [{low:.4g}, {high:.4g}] ratio"
    flagged = [f"{one.model} {one.form}: {', '.join(flags_of(row))}" for one, row in rows.items() if flags_of(row)]
    if flagged:
        number, inference = "open", "inconclusive"
        reason = f"the measurement was disturbed ({'; '.join(flagged)}); {reason}"
    evidence = tuple(counts[one].evidence if one in counts else source_of(rows[one]) for one in term.quantities)
    shown = term.shown(values)
    if term.operator != "ratio":
        medians = {one: float(row["examples_per_s"]) for one, row in rows.items()}
        shown = f"{term.shown(values | medians)}, paired ratio {factor * ratio.value:.4g}"
    return Answer(term.text, number, inference, shown, low, high, reason, evidence)


def _ranking(term: Term, setting: Setting, paper: Paper) -> Answer | None:
    points, rows = [], []
    for name in (fact["model"] for fact in paper.table("4")):
        counts = [counted(Quantity(kind, name)) for kind in ("flops", "wino")]
        row = setting.rows.get((name, "deploy"))
        if row and all(counts):
            rows.append(row)
            points.append((float(row["examples_per_s"]), *(one.value for one in counts)))
    if len(points) < 8:
        return None
    number, value = ranked(points)
    reason, flagged = f"{len(points)} {NO_SAMPLE}", sum(bool(flags_of(row)) for row in rows)
    if flagged:
        number, reason = "open", f"the speeds of {flagged} networks were disturbed; {reason}"
    return Answer(term.text, number, "inconclusive", value, reason=reason, evidence=tuple(map(source_of, rows)))


def _kernel_rows(claim: Row, terms: list[Term], device: Device) -> Iterator[Row]:
    """Densities; those of another shape than the paper's are shown only."""
    settings: dict[tuple, dict[str, Row]] = {}
    names = ("run_id", "precision", "backend", "memory_format", *SHAPE)
    for row in device.table("kernel_size"):
        if row["tflops"]:
            settings.setdefault(tuple(row[name] for name in names), {})[row["kernel_size"]] = row
    complete = {key: rows for key, rows in settings.items() if {"1", "3", "5", "7"} <= set(rows)}
    of_paper: dict[tuple, tuple] = {}
    for key in sorted(
        (key for key in complete if key[4:] == PAPER_SHAPE),
        key=lambda key: (
            [-ord(letter) for letter in key[0]],
            -sum(float(row["tflops"]) for row in complete[key].values()),
            key[3],
        ),
    ):
        of_paper.setdefault(key[1:3], key)
    for key in [of_paper[one] for one in sorted(of_paper)] + [key for key in complete if key[4:] != PAPER_SHAPE]:
        _, precision, backend, memory_format, batch, channels, px = key
        decides, shape = key[4:] == PAPER_SHAPE, f"batch {batch}, {channels} channels, {px} px"
        told = f"measured with {shape}; the claim is about batch 32, 2048 channels, 56 px"
        answers = [_density_answer(term, complete[key], told, decides=decides) for term in terms]
        differs = ([precision] if precision != "fp32" else []) if decides else [shape]
        row = row_of(claim, answers, len(terms), evidence_class="measured here", source="this companion",
                     setting=f"{precision}, {backend}, {memory_format}, batch {batch}", device=device.name,
                     differs="; ".join(differs))  # fmt: skip
        yield row or {}


def _density_answer(term: Term, rows: dict[str, Row], told: str, *, decides: bool) -> Answer:
    used = [rows[one.model] for one in term.quantities]
    values = {one: float(rows[one.model]["tflops"]) for one in term.quantities}
    sources = [f"kernel_size.csv {row['run_id']} {row['kernel_size']}" for row in used]
    if not decides:
        return Answer(term.text, "not tested", "not tested", term.shown(values), reason=told, evidence=tuple(sources),
                      shown=True)  # fmt: skip
    first, second = (
        Interval(density := float(row["tflops"]), density * float(row["time_ms"]) / float(row["high_ms"]),
                 density * float(row["time_ms"]) / float(row["low_ms"])) for row in used
    )  # fmt: skip
    ratio = quotient(first, second)
    number = judged(ratio.low, ratio.high, term.bounds(values))
    inference = beyond(ratio.low, ratio.high, 1.0, upward=True)
    inference = "not met" if inference == "contradicted" else inference
    reason = f"this device [{ratio.low:.4g}, {ratio.high:.4g}] ratio"
    flagged = [f"{row['kernel_size']} density: {', '.join(flags_of(row))}" for row in used if flags_of(row)]
    if flagged:
        number, inference = "open", "inconclusive"
        reason = f"the measurement was disturbed ({'; '.join(flagged)}); {reason}"
    evidence = tuple(source + (f" (flagged: {row['flags']})" if row["flags"] else "")
                     for source, row in zip(sources, used, strict=True))  # fmt: skip
    return Answer(term.text, number, inference, f"{ratio.value:.6g}", ratio.low, ratio.high, reason, evidence)


def _memory_row(claim: Row, device: Device) -> Row | None:
    if "residual-block-doubles-memory" not in claim["condition"]:
        return None
    maps: dict[bool, list[float]] = {}
    names: dict[bool, str] = {}
    for row in device.table("memory"):
        if row["form"] == "deploy" and row["layer"].startswith(FIGURE_3[0]):
            same = [
                one
                for one in device.table("memory")
                if all(one[name] == row[name] for name in ("run_id", "model", "form"))
                and one["layer"].startswith(FIGURE_3)
            ]
            kind = row["model"].startswith("ResNet")
            maps.setdefault(kind, [float(one["live_feature_map_mib"]) for one in same])
            names.setdefault(kind, f"memory.csv {row['run_id']} {row['model']} deploy")
    if len(maps) < 2:
        return None
    residual, plain = (max(maps[kind]) / maps[kind][0] for kind in (True, False))
    holds = abs(residual - 2) <= 0.1 and abs(plain - 1) <= 0.05
    number, inference = ("met", "reproduced") if holds else ("not met", "contradicted")
    told = Answer(
        claim["condition"], number, inference, f"{residual:.2f}x vs {plain:.2f}x", evidence=(names[True], names[False])
    )
    return row_of(claim, [told], 1, evidence_class="measured here", source="this companion",
                  setting="live feature maps", device=device.name)  # fmt: skip


def _saturation_row(claim: Row, device: Device) -> Row | None:
    """Batch 256 against batch 128 in one run and setting: the largest gain of each network."""
    if "batch-128-saturates" not in claim["condition"]:
        return None
    same = ("run_id", "model", "backend", "memory_format", "protocol", "input_px")
    rows = [row for row in device.table("speed") if row["examples_per_s"] and row["form"] == "deploy"
            and row["precision"] == "fp32" and float(row["width"]) == 1]  # fmt: skip
    half = {tuple(row[name] for name in same): row for row in rows if row["batch_size"] == "128"}
    pairs = [(half[key], row) for row in rows if row["batch_size"] == "256"
             and (key := tuple(row[name] for name in same)) in half]  # fmt: skip
    if not pairs:
        return None
    gains: dict[str, float] = {}
    for small, large in pairs:
        gain = float(large["examples_per_s"]) / float(small["examples_per_s"])
        gains[large["model"]] = max(gain, gains.get(large["model"], 0))
    most = max(gains, key=lambda model: gains[model])
    number = "met" if gains[most] <= 1.05 else "not met"
    reason = f"{len(gains)} networks; the paper names the GPU's utilisation, which is not measured"
    if flagged := sum(bool(flags_of(small) + flags_of(large)) for small, large in pairs):
        number, reason = "open", f"{flagged} measurements were disturbed; {reason}"
    told = Answer(claim["condition"], number, "inconclusive", f"at most {gains[most]:.3f} ({most})", reason=reason,
                  evidence=tuple(source_of(row | {"flags": ""}) for pair in pairs for row in pair))  # fmt: skip
    return row_of(claim, [told], 1, evidence_class="measured here", source="this companion",
                  setting="fp32, batch 128 and 256", device=device.name)  # fmt: skip
