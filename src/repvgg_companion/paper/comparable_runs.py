"""The sets of speeds, or kernel sizes, that may be compared: rows of one run and one setting.

A ratio needs both speeds from one run, because clocks and temperature differ between runs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from repvgg_companion.errors import CompanionError
from repvgg_companion.paper.grammar import NotAvailable, Quantity
from repvgg_companion.paper.ours import Reading, Results, Row, is_paper_speed
from repvgg_companion.speed.speed_settings import PAPER_BATCH_SIZE
from repvgg_companion.speed.statistics import Interval, chained_ratio

SETTING = ("device", "precision", "backend", "run_id", "protocol", "batch_size", "memory_format")
PAPER_SHAPE = {"batch_size": 32, "channels": 2048, "resolution_px": 56}
"""Table 1; a device that cannot hold it measures a smaller, labelled shape, which decides no claim."""
BEST = "best of each"
DISTURBED = ("busy", "throttled", "drift", "spread", "few samples")
"""Flags of a speed that was disturbed beyond the limits of its measurement; it decides nothing."""


@dataclass(frozen=True)
class ComparableRun:
    """Rows of one run under one setting, by what they measure; `backend` may be the best of each network."""

    device: str
    precision: str
    backend: str
    run_id: str
    protocol: str
    batch_size: int
    memory_format: str
    rows: Mapping[tuple[str, str], Row]

    @property
    def is_paper_setting(self) -> bool:
        """Whether these are the paper's device, precision and batch size."""
        device = self.device.lower().replace("-", "")
        on_device = "1080ti" in device and self.precision == "fp32" and self.backend == "eager"
        return on_device and self.batch_size == PAPER_BATCH_SIZE

    def disturbances(self, quantities: Iterable[Quantity]) -> tuple[str, ...]:
        """What disturbed the speeds of `quantities`, such as `RepVGG-A0 deploy: spread 34 %`."""
        keys = dict.fromkeys(map(_key, quantities))
        return tuple(
            f"{' '.join(key)}: {', '.join(flags)}" for key in keys if (flags := disturbing_flags(self.rows[key]))
        )

    @property
    def networks(self) -> int:
        """How many networks were measured in this setting, whatever their forms."""
        return len({subject for subject, _ in self.rows})

    @property
    def label(self) -> str:
        """`cpu-…, fp32, eager, batch 1`: the setting in words."""
        return f"{self.device}, {self.precision}, {self.backend}, batch {self.batch_size}"

    @property
    def details(self) -> str:
        """`fp32, eager, batch 1, 224 px, 20 samples`: the setting without the device, for a figure."""
        sizes = "/".join(str(px) for px in sorted({row["input_px"] for row in self.rows.values()}))
        samples = min(row["n_samples"] for row in self.rows.values())
        return f"{self.precision}, {self.backend}, batch {self.batch_size}, {sizes} px, {samples} samples"

    def row_source(self, model: str, form: str) -> str:
        """`speed.csv RUN MODEL FORM PRECISION BACKEND batch N`: which row a speed of this setting is."""
        row = self.rows[model, form]
        words = f"{form} {row['precision']} {row['backend']} batch {row['batch_size']}"
        return f"speed.csv {self.run_id} {model} {words}"

    def read(self, quantity: Quantity) -> Reading:
        """The speed in examples/s or the density in TFLOPS; raises NotAvailable if it was not measured here."""
        row = self.rows.get(_key(quantity))
        if row is None:
            raise NotAvailable(f"{quantity} was not measured in the run {self.run_id}")
        if quantity.name == "density":
            value, evidence = row["tflops"], f"kernel_size.csv {self.run_id} {quantity.subject}"
        else:
            value, evidence = row["examples_per_s"], self.row_source(quantity.subject, quantity.form)
        if row["flags"]:
            evidence += f" (flagged: {row['flags']})"
        return Reading(value, (row,), (evidence,))

    def ratio(self, numerator: Quantity, denominator: Quantity) -> Interval:
        """How many times as fast the numerator is, with its 95 % interval, from rows of this one run.

        From the raw samples, compared round by round, where they are there and give the rows' speeds; else from the
        intervals of the rows, their relative widths added in quadrature.
        """
        top, bottom = self.rows[_key(numerator)], self.rows[_key(denominator)]
        paired = _paired_ratio(top, bottom) if numerator.name == "speed" else None
        return paired or ratio_of_rows(top, bottom)


def _key(quantity: Quantity) -> tuple[str, str]:
    return (quantity.subject, quantity.form if quantity.name == "speed" else "density")


def disturbing_flags(row: Row) -> list[str]:
    """The flags of a row that keep it from deciding anything."""
    return [flag for flag in (row.get("flags") or "").split("; ") if flag.startswith(DISTURBED)]


def disturbed_by(row: Row) -> list[str]:
    """What disturbed a row, without the amounts: some of `DISTURBED`."""
    flags = disturbing_flags(row)
    return [kind for kind in DISTURBED if any(flag.startswith(kind) for flag in flags)]


def interval_of(row: Row) -> Interval:
    """The speed in examples/s, or the density in TFLOPS, of a row with its 95 % interval."""
    if "examples_per_s" in row:
        return Interval(row["examples_per_s"], row["low_examples_per_s"], row["high_examples_per_s"], row["n_samples"])
    value = row["tflops"]
    scale = value * row["time_ms"]
    return Interval(value, scale / row["high_ms"], scale / row["low_ms"], row["n_samples"])


def ratio_of_rows(top: Row, bottom: Row) -> Interval:
    """The quotient of two rows of one run with its interval; raises NotAvailable for rows of two runs."""
    if top["run_id"] != bottom["run_id"]:
        raise NotAvailable(
            f"a ratio across the runs {top['run_id']} and {bottom['run_id']} means nothing, because clocks and "
            "temperature differ; measure both in one run"
        )
    first, second = interval_of(top), interval_of(bottom)
    if min(first.low, second.low) <= 0:
        raise NotAvailable("a speed of zero has no ratio")
    return chained_ratio(first, second)


def _paired_ratio(top: Row, bottom: Row) -> Interval | None:
    from repvgg_companion.speed.samples import find_run

    if top["run_id"] != bottom["run_id"]:
        return None
    try:
        samples = find_run(top["_folder"] / "speed", top["run_id"])
        agree = all(abs(samples.rate(row).value / row["examples_per_s"] - 1) < 1e-6 for row in (top, bottom))
        return samples.ratio(top, bottom) if agree else None
    except CompanionError:
        return None


def comparable_runs(results: Results, quantities: Iterable[Quantity]) -> tuple[list[ComparableRun], str]:
    """The best comparable setting for each device, precision and backend in which all `quantities` were measured.

    If a run has several backends, one more setting compares the best of each network; if networks ran in several
    memory formats, each backend compares the best one of each. The second value is the reason if there is no setting.
    The paper's batch of 128 is preferred, then the larger batch, then the later run; if no quantity is named, the
    setting with the most networks comes first.
    """
    quantities = list(quantities)
    needed = {_key(quantity) for quantity in quantities}
    density = any(quantity.name == "density" for quantity in quantities)
    table = "kernel_size" if density else "speed"
    measured = "tflops" if density else "examples_per_s"
    rows = [row for row in results.rows(table) if row[measured] is not None]
    if not rows:
        return [], f"{table}.csv holds no rows"
    usable = [row for row in rows if (has_paper_shape(row) if density else is_paper_speed(row))]
    settings: dict[tuple, dict[tuple[str, str], Row]] = {}
    for row in usable:
        settings.setdefault(tuple(row.get(name) for name in SETTING), {})[_row_key(row)] = row
    candidates = [
        ComparableRun(**dict(zip(SETTING, setting, strict=True)), rows=members) for setting, members in settings.items()
    ]
    candidates += _best(settings, "memory_format") + _best(settings, "backend")
    fitting = [run for run in candidates if needed <= set(run.rows)]
    chosen: dict[tuple, ComparableRun] = {}
    for run in sorted(fitting, key=lambda one: (0 if needed else -one.networks, *_preference(one))):
        chosen.setdefault((run.device, run.precision, run.backend), run)
    if chosen:
        return [chosen[key] for key in sorted(chosen)], ""
    return [], _why_none(needed, usable, rows, density)


def widest_of_each_device(results: Results) -> list[ComparableRun]:
    """The setting that a table or figure shows for each device; the device with most networks comes first.

    fp32 and eager before others, then the setting with the most networks. A setting with fewer than four fifths of the
    networks of the device's largest is not shown: a figure without the peers compares nothing.
    """
    every, _ = comparable_runs(results, [])
    single = [run for run in every if run.backend != BEST]
    most = {run.device: 0 for run in single}
    for run in single:
        most[run.device] = max(most[run.device], run.networks)
    order = {"fp32": 0, "tf32": 1, "fp16": 2, "bf16": 2}
    ranked = sorted(
        (run for run in single if run.networks >= 0.8 * most[run.device]),
        key=lambda run: (order.get(run.precision, 9), run.backend != "eager", -run.networks),
    )
    first: dict[str, ComparableRun] = {}
    for run in ranked:
        first.setdefault(run.device, run)
    return sorted(first.values(), key=lambda run: (-len(run.rows), run.device))


def widest(results: Results) -> ComparableRun | None:
    """The setting that a table shows: the first of `widest_of_each_device`; None where no speed was measured."""
    return next(iter(widest_of_each_device(results)), None)


def _row_key(row: Row) -> tuple[str, str]:
    return (str(row["kernel_size"]), "density") if "kernel_size" in row else (row["model"], row["form"])


def has_paper_shape(row: Row) -> bool:
    """Whether a row of kernel_size.csv was measured at the shape of Table 1."""
    return all(row[name] == value for name, value in PAPER_SHAPE.items())


def _preference(run: ComparableRun) -> tuple:
    far_from_paper = run.batch_size != PAPER_BATCH_SIZE
    newest_first = tuple(-ord(letter) for letter in run.run_id)
    speeds = [interval_of(row).value for row in run.rows.values()]
    return (
        far_from_paper,
        -run.batch_size,
        run.protocol != "interleaved",
        -len(run.rows),
        newest_first,
        -sum(speeds),
        run.memory_format,
    )


def _best(settings: Mapping[tuple, dict[tuple[str, str], Row]], over: str) -> list[ComparableRun]:
    """Runs of the fastest row of each network over the memory formats, or over the backends and their formats."""
    merged: dict[tuple, dict[str, Any]] = {}
    for setting, members in settings.items():
        key = dict(zip(SETTING, setting, strict=True)) | {"memory_format": BEST}
        varied = key["backend"] if over == "backend" else setting[SETTING.index("memory_format")]
        if over == "backend":
            key["backend"] = BEST
        entry = merged.setdefault(tuple(key.values()), {"varied": set(), "rows": {}})
        entry["varied"].add(varied)
        for network, row in members.items():
            best = entry["rows"].get(network)
            if "examples_per_s" in row and (best is None or row["examples_per_s"] > best["examples_per_s"]):
                entry["rows"][network] = row
    return [
        ComparableRun(**dict(zip(SETTING, key, strict=True)), rows=entry["rows"])
        for key, entry in merged.items()
        if len(entry["varied"]) > 1 and entry["rows"]
    ]


def _why_none(needed: set[tuple[str, str]], usable: list[Row], rows: list[Row], density: bool) -> str:
    if density and not usable:
        row = rows[0]
        return (
            f"{row['device']} measured {row['channels']} channels at batch {row['batch_size']} and "
            f"{row['resolution_px']} px, not the paper's 2048 channels at batch 32 and 56 px"
        )
    measured = {_row_key(row) for row in usable}
    if missing := sorted(needed - measured):
        named = ", ".join(
            f"{model} ({form} form)" if form != "density" else f"kernel {model}" for model, form in missing
        )
        return f"no speed of {named} was measured at the paper's width and input size"
    return "the speeds come from different runs or settings, whose ratio means nothing; measure them in one run"
