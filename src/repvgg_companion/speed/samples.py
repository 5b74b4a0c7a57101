"""Raw samples: every timed block of one run in a Parquet file, and the ratios that may be formed from it. No torch.

One file is one run, `FOLDER/DEVICE/RUN_ID.parquet`; a ratio across two files is refused.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np

from repvgg_companion.errors import CompanionError
from repvgg_companion.files import atomic_path
from repvgg_companion.speed.statistics import Interval, chained_ratio, percentiles, rate_interval, speed_ratio

TIMED = "timed"
DRIFT_CHECK = "drift-check"
CEILING = "ceiling"


@dataclass(frozen=True)
class Sample:
    """One timed block of `iterations` batches; `seconds` is the time of one batch.

    `role` is `timed`, `drift-check` (a group's first network, measured again after the last round) or `ceiling` (the
    device's ceilings, measured in the same rounds); only `timed` samples enter a row.
    """

    group: str
    start: int
    round: int
    position: int
    role: str
    model: str
    form: str
    protocol: str
    precision: str
    memory_format: str
    backend: str
    batch_size: int
    input_px: int
    iterations: int
    seconds: float


CONDITION = ("protocol", "precision", "memory_format", "backend", "batch_size", "input_px")
KEY = ("model", "form", *CONDITION)
"""What tells the rows of one run apart; the rows of `speed.csv` carry the same columns."""


@dataclass(frozen=True)
class Samples:
    """The samples of one run on one device."""

    run_id: str
    device: str
    samples: tuple[Sample, ...]

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a run's file; raises CompanionError if it is missing or not such a file."""
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(path)
        except FileNotFoundError:
            raise CompanionError(f"{path} does not exist; measure again") from None
        except Exception as error:
            raise CompanionError(f"{path} is not a file of speed samples ({error}); measure again") from None
        metadata = table.schema.metadata or {}
        names = [field.name for field in fields(Sample)]
        if b"run_id" not in metadata or table.column_names != names:
            raise CompanionError(f"{path} is not a file of speed samples; measure again")
        rows = tuple(Sample(**row) for row in table.to_pylist())
        return cls(metadata[b"run_id"].decode(), metadata[b"device"].decode(), rows)

    def write(self, folder: str | Path) -> Path:
        """Write `FOLDER/DEVICE/RUN_ID.parquet` by rename and return its path."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        kinds: dict[Any, Any] = {int: pa.int64(), float: pa.float64(), str: pa.string()}
        schema = pa.schema(
            [(field.name, kinds[field.type]) for field in fields(Sample)],
            metadata={"run_id": self.run_id, "device": self.device},
        )
        path = Path(folder) / self.device / f"{self.run_id}.parquet"
        with atomic_path(path) as temporary:
            pq.write_table(pa.Table.from_pylist([asdict(sample) for sample in self.samples], schema), temporary)
        return path

    @cached_property
    def _by_key(self) -> dict[tuple, list[Sample]]:
        chosen: dict[tuple, list[Sample]] = {}
        for sample in self.samples:
            if sample.role == TIMED:
                chosen.setdefault(key_of(sample), []).append(sample)
        return chosen

    @cached_property
    def _rates(self) -> dict[tuple, Interval]:
        """Cache of intervals: claims, tables and figures ask for the same ones again."""
        return {}

    @cached_property
    def _ratios(self) -> dict[tuple[tuple, tuple], Interval]:
        return {}

    def keys(self) -> Iterable[tuple]:
        """What was measured, each as the values of `KEY`."""
        return self._by_key.keys()

    def of(self, row: Mapping[str, Any] | tuple) -> list[Sample]:
        """The timed samples of one row; raises CompanionError if there are none."""
        key = row if isinstance(row, tuple) else tuple(row[name] for name in KEY)
        if key not in self._by_key:
            raise CompanionError(f"run {self.run_id} holds no samples of {' '.join(map(str, key))}")
        return self._by_key[key]

    def rate(self, row: Mapping[str, Any] | tuple) -> Interval:
        """Examples per second of one row, as in `speed.csv`."""
        chosen = self.of(row)
        key = key_of(chosen[0])
        if key not in self._rates:
            self._rates[key] = rate_interval(
                [sample.seconds for sample in chosen], chosen[0].batch_size, strata=[sample.start for sample in chosen]
            )
        return self._rates[key]

    def percentiles(self, row: Mapping[str, Any] | tuple) -> dict[str, float]:
        """The 10th and 90th percentiles of one row's samples in examples per second, by their columns.

        The median of two very different times may lie below the 10th percentile of their rates, which is then lowered
        to it.
        """
        chosen = self.of(row)
        low, high = percentiles([chosen[0].batch_size / sample.seconds for sample in chosen])
        middle = chosen[0].batch_size / float(np.median([sample.seconds for sample in chosen]))
        return {"p10_examples_per_s": min(low, middle), "p90_examples_per_s": max(high, middle)}

    def ratio(self, numerator: Mapping[str, Any] | tuple, denominator: Mapping[str, Any] | tuple) -> Interval:
        """How many times as many examples per second the numerator reaches, with its 95 % interval.

        Networks of one group are compared round by round; networks of two groups through the network that both
        groups hold (the anchor). The batch sizes may differ. Raises CompanionError for rows of another run, and if
        two groups share no network.
        """
        for row in (numerator, denominator):
            if not isinstance(row, tuple) and row.get("run_id", self.run_id) != self.run_id:
                raise CompanionError(
                    f"a ratio across runs ({row['run_id']} and {self.run_id}) means nothing, because clocks and "
                    "temperature differ; measure both networks in one run"
                )
        top, bottom = self.of(numerator), self.of(denominator)
        keys = key_of(top[0]), key_of(bottom[0])
        if keys not in self._ratios:
            self._ratios[keys] = self._ratio(top, bottom)
        return self._ratios[keys]

    def _ratio(self, top: list[Sample], bottom: list[Sample]) -> Interval:
        per_example = top[0].batch_size / bottom[0].batch_size
        common = {sample.group for sample in top} & {sample.group for sample in bottom}
        if common:
            return _scaled(_paired(top, bottom, common), per_example)
        return _scaled(self._through_anchor(top, bottom), per_example)

    def _through_anchor(self, top: list[Sample], bottom: list[Sample]) -> Interval:
        groups = [{sample.group for sample in part} for part in (top, bottom)]
        for key, members in self._by_key.items():
            held = {sample.group for sample in members}
            # The memory format may differ: it is part of how each network runs best.
            if (
                held & groups[0]
                and held & groups[1]
                and all(key[KEY.index(name)] == getattr(top[0], name) for name in ("protocol", "precision", "backend"))
            ):
                first = _paired(top, members, held & groups[0])
                return chained_ratio(first, _paired(bottom, members, held & groups[1]))
        raise CompanionError(
            f"{top[0].model} and {bottom[0].model} were measured in groups without a common network; "
            "name one of them as the anchor and measure again"
        )


def key_of(sample: Sample) -> tuple:
    """The values of `KEY` of one sample."""
    return tuple(getattr(sample, name) for name in KEY)


def _paired(top: list[Sample], bottom: list[Sample], groups: set[str]) -> Interval:
    moments = [
        {(sample.start, sample.group, sample.round): sample.seconds for sample in part if sample.group in groups}
        for part in (top, bottom)
    ]
    both = sorted(set(moments[0]) & set(moments[1]))
    return speed_ratio(
        [moments[0][moment] for moment in both],
        [moments[1][moment] for moment in both],
        strata=[moment[0] for moment in both],
    )


def _scaled(ratio: Interval, factor: float) -> Interval:
    return Interval(ratio.value * factor, ratio.low * factor, ratio.high * factor, ratio.n)


def find_run(folder: str | Path, run_id: str) -> Samples:
    """The samples of a run below `folder`, whatever its device; raises CompanionError if they are missing."""
    found = sorted(Path(folder).glob(f"*/{run_id}.parquet"))
    if not found:
        raise CompanionError(f"{folder} holds no samples of the run {run_id}; copy them there or measure again")
    return _read_once(found[0], found[0].stat().st_mtime_ns)


@lru_cache(maxsize=16)  # a claim, a table or a comparison asks for the same run again and again
def _read_once(path: Path, _changed_ns: int) -> Samples:
    return Samples.read(path)
