"""Medians, intervals and ratios: against scipy, against simulated truth, and across runs."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from repvgg_companion.errors import CompanionError
from repvgg_companion.speed import statistics
from repvgg_companion.speed.samples import DRIFT_CHECK, KEY, TIMED, Sample, Samples, find_run


def sample(model, number, seconds, *, group="g1", role=TIMED, form="deploy", batch=1, start=0):
    where = ("interleaved", "fp32", "contiguous", "eager", batch, 224)
    return Sample(group, start, number, 0, role, model, form, *where, 1, seconds)


def row(model, form="deploy", batch=1, **more):
    values = (model, form, "interleaved", "fp32", "contiguous", "eager", batch, 224)
    return dict(zip(KEY, values, strict=True)) | more


def test_median_and_interval_agree_with_scipy():
    values = np.random.default_rng(3).lognormal(0, 0.2, 40)
    ours = statistics.median_interval(values)
    assert ours.value == np.median(values)
    level = 1 - 2 * statistics.tail(40)
    peer = stats.bootstrap((values,), np.median, confidence_level=level, method="percentile", n_resamples=5000,
                           rng=np.random.default_rng(1)).confidence_interval  # fmt: skip
    assert ours.low == pytest.approx(peer.low, rel=0.02)
    assert ours.high == pytest.approx(peer.high, rel=0.02)
    assert ours == statistics.median_interval(values), "the same samples must give the same interval"


def test_expanded_tail_is_that_of_the_t_interval():
    # For n = 20: t(19) at 97.5 % is 2.0930, times sqrt(20/19) is 2.1474, below which the normal has 1.588 %.
    assert statistics.tail(20) == pytest.approx(0.01588, abs=2e-5)
    assert statistics.tail(100000) == pytest.approx(0.025, abs=1e-5)


@pytest.mark.parametrize("draw", ["normal", "heavy", "skewed"])
def test_interval_of_20_samples_covers_the_true_median(draw):
    generator = np.random.default_rng(7)
    draws = {
        "normal": lambda: 1 + 0.05 * generator.standard_normal(20),
        "heavy": lambda: 1 + 0.02 * np.clip(generator.standard_t(2, 20), -40, 40),
        "skewed": lambda: 0.5 + 0.5 * generator.lognormal(0, 0.5, 20),
    }
    covered = sum(
        interval.low <= 1 <= interval.high
        for interval in (statistics.median_interval(draws[draw]()) for _ in range(400))
    )
    assert 0.93 * 400 <= covered <= 0.995 * 400


@pytest.mark.parametrize("count", [2, 3, 5])
def test_an_interval_of_few_samples_covers_the_true_median(count):
    """The interval from the least to the largest of three samples would cover it in 75 %."""
    generator = np.random.default_rng(7)
    intervals = [statistics.median_interval(generator.lognormal(0, 0.1, count)) for _ in range(600)]
    covered = sum(interval.low <= 1 <= interval.high for interval in intervals)
    assert covered >= 0.9 * 600, covered
    assert all(interval.n == count and interval.low < interval.value < interval.high for interval in intervals)


def test_rate_turns_the_interval_around():
    rate = statistics.rate_interval([0.010, 0.011, 0.012] * 7, 4)
    assert rate.low <= rate.value <= rate.high
    assert rate.value == pytest.approx(4 / 0.011)


def test_ratio_pairs_rounds():
    # Every round is slowed by its own factor of up to 3: unpaired medians could not see 10 %, paired ones must.
    generator = np.random.default_rng(5)
    weather = generator.uniform(1, 3, 20)
    slow, fast = 1.10 * weather * generator.normal(1, 0.01, 20), weather * generator.normal(1, 0.01, 20)
    ratio = statistics.speed_ratio(fast, slow)
    assert ratio.value == pytest.approx(1.10, abs=0.02)
    assert ratio.low > 1
    same = statistics.speed_ratio(weather * generator.normal(1, 0.01, 20), fast)
    assert same.low <= 1 <= same.high


def test_ratio_of_unequal_rounds_is_refused():
    with pytest.raises(CompanionError, match="same rounds"):
        statistics.speed_ratio([1.0] * 20, [1.0] * 21)


@pytest.mark.parametrize("bad", [[], [1.0, 0.0], [1.0, float("nan")], [-1.0]])
def test_impossible_times_are_refused(bad):
    with pytest.raises(CompanionError, match="positive"):
        statistics.median_interval(bad)


def make_run(run_id="run-a"):
    generator = np.random.default_rng(11)
    rows = []
    for group, models in (("g1", {"Anchor": 0.02, "A": 0.01}), ("g2", {"Anchor": 0.02, "B": 0.05})):
        for number in range(20):
            weather = generator.uniform(1, 1.5) * (2.0 if group == "g2" else 1.0)
            for model, seconds in models.items():
                rows.append(sample(model, number, weather * seconds * generator.normal(1, 0.005), group=group))
        rows.append(sample("Anchor", 20, 1000.0, group=group, role=DRIFT_CHECK))
    return Samples(run_id, "cpu-test", tuple(rows))


def test_samples_survive_the_file(tmp_path):
    run = make_run()
    path = run.write(tmp_path)
    assert path == tmp_path / "cpu-test" / "run-a.parquet"
    assert Samples.read(path) == run
    assert find_run(tmp_path, "run-a") == run
    with pytest.raises(CompanionError, match="run-b"):
        find_run(tmp_path, "run-b")


def test_the_percentiles_hold_the_median_of_two_very_different_samples():
    samples = Samples("r", "d", (sample("a", 0, 0.001), sample("a", 1, 1.0)))
    found = samples.percentiles(row("a"))
    assert found["p10_examples_per_s"] <= samples.rate(row("a")).value <= found["p90_examples_per_s"]


def test_drift_check_samples_enter_no_row():
    assert make_run().rate(row("Anchor")).n == 40
    assert make_run().rate(row("Anchor")).low > 1


def test_ratio_inside_a_group_and_through_the_anchor():
    run = make_run()
    assert run.ratio(row("A"), row("Anchor")).value == pytest.approx(2.0, rel=0.01)
    through = run.ratio(row("A"), row("B"))
    # The second group ran at half the clock; the anchor takes that out.
    assert through.value == pytest.approx(5.0, rel=0.02)
    assert through.low < through.value < through.high


def test_ratio_across_runs_is_refused():
    run = make_run()
    with pytest.raises(CompanionError, match="across runs"):
        run.ratio(row("A", run_id="run-a"), row("B", run_id="run-b"))


def test_ratio_without_a_common_network_is_refused():
    run = make_run()
    alone = dataclasses.replace(run, samples=tuple(s for s in run.samples if s.model != "Anchor"))
    with pytest.raises(CompanionError, match="anchor"):
        alone.ratio(row("A"), row("B"))


def test_ratio_of_different_batch_sizes_counts_examples():
    rows = [sample("A", n, 0.010 + n * 1e-6, batch=1) for n in range(20)]
    rows += [sample("A", n, 0.040 + n * 1e-6, batch=8) for n in range(20)]
    run = Samples("run", "cpu-test", tuple(rows))
    assert run.ratio(row("A", batch=8), row("A", batch=1)).value == pytest.approx(2.0, rel=0.01)


def test_a_file_that_holds_no_samples_is_refused(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"nonsense")
    with pytest.raises(CompanionError, match="not a file of speed samples"):
        Samples.read(tmp_path / "x.parquet")
