"""The harness: null test, planted slow-down, drift, order, and a clock that does not wait."""

import queue
import threading
import time

import numpy as np
import pytest

from repvgg_companion.errors import CompanionError
from repvgg_companion.speed.clocks import CpuClock, CudaClock, require_synchronised
from repvgg_companion.speed.harness import Limits, Rounds, Subject, measure_group, measure_in_sequence, warm_up
from repvgg_companion.speed.statistics import speed_ratio

QUICK = Limits(0.0, 2, 0.0, 1, 5.0, 20.0)


class SimulatedMachine:
    """A clock and workloads on a machine whose pace wanders and that is sometimes disturbed."""

    def __init__(self, seed):
        self.generator = np.random.default_rng(seed)
        self.now, self.pace = 0.0, 1.0

    def work(self, seconds):
        def call():
            self.pace = np.clip(self.pace * self.generator.normal(1, 0.01), 0.7, 1.4)
            noise = self.generator.lognormal(0, 0.02)
            disturbed = 1.5 if self.generator.random() < 0.03 else 1.0
            self.now += seconds * self.pace * noise * disturbed

        return call

    def time_block(self, call, iterations):
        start = self.now
        for _ in range(iterations):
            call()
        return (self.now - start) / iterations

    def time_each(self, call, iterations):
        return [self.time_block(call, 1) for _ in range(iterations)]

    def synchronize(self):
        pass


def ratio_of(machine, first, second, seed):
    subjects = [Subject("first", machine.work(first)), Subject("second", machine.work(second))]
    result = measure_group(subjects, machine, Rounds(20, QUICK, seed))
    return speed_ratio(result.seconds("first"), result.seconds("second"))


def test_null_the_same_work_entered_twice_gives_an_interval_with_1():
    ratios = [ratio_of(SimulatedMachine(n), 0.01, 0.01, n) for n in range(200)]
    contains = sum(ratio.low <= 1 <= ratio.high for ratio in ratios)
    assert 186 <= contains < 200  # all 200 would mean intervals too wide to tell anything


def test_planted_slow_down_of_5_percent_is_detected():
    ratios = [ratio_of(SimulatedMachine(n), 0.0105, 0.01, n) for n in range(100)]
    assert sum(ratio.high < 1 for ratio in ratios) >= 90
    assert np.median([ratio.value for ratio in ratios]) == pytest.approx(1 / 1.05, rel=0.01)


def test_every_subject_takes_every_place_equally_often():
    machine = SimulatedMachine(0)
    subjects = [Subject(name, machine.work(0.01)) for name in "abcd"]
    result = measure_group(subjects, machine, Rounds(20, QUICK, 4))
    for name in "abcd":
        places = [timing.position for timing in result.timings if timing.subject == name]
        assert [places.count(place) for place in range(4)] == [5, 5, 5, 5]
    first_rounds = [tuple(t.subject for t in result.timings if t.round == number) for number in (0, 4, 8, 12, 16)]
    assert len(set(first_rounds)) > 1, "the permutation must change, or neighbours would always be the same"


def test_drift_is_seen():
    machine = SimulatedMachine(1)
    machine.pace = 1.0
    subjects = [Subject("a", machine.work(0.01)), Subject("b", machine.work(0.01))]
    rounds = 0

    def on_round():
        nonlocal rounds
        rounds += 1
        if rounds == 20:
            subjects[0].call = machine.work(0.013)

    result = measure_group(subjects, machine, Rounds(20, QUICK, after_each=on_round))
    assert result.drift_pct() > 15


def test_the_drift_check_finds_the_caches_as_the_rounds_leave_them():
    calls = []

    class Caches(SimulatedMachine):
        def work(self, name):
            def call():
                # Twice as fast where the same network ran just before.
                self.now += 0.01 if calls and calls[-1] == name else 0.02
                calls.append(name)

            return call

    machine = Caches(0)
    subjects = [Subject(name, machine.work(name)) for name in "abc"]
    result = measure_group(subjects, machine, Rounds(20, QUICK))
    assert abs(result.drift_pct()) < 1


def test_warm_up_ends_when_times_are_stable():
    times = iter([0.5, 0.3, 0.2, 0.15, 0.101, 0.100] + [0.1] * 300)

    class Falling(SimulatedMachine):
        def time_block(self, call, iterations):
            return next(times)

    subject = Subject("a", lambda: None)
    calls, stable = warm_up(subject, Falling(0), QUICK)
    assert stable
    assert calls == 6


def test_short_work_is_timed_in_blocks():
    machine = SimulatedMachine(0)
    subject = Subject("short", machine.work(0.0001))
    warm_up(subject, machine, Limits(0.0, 2, 0.010, 1, 5, 20))
    assert 60 <= subject.iterations <= 140


def test_the_papers_protocol_warms_up_50_batches_and_times_50():
    calls = {"a": 0, "b": 0}

    def count(name):
        def call():
            calls[name] += 1

        return call

    result = measure_in_sequence([Subject("a", count("a")), Subject("b", count("b"))], CpuClock(), 50)
    assert calls == {"a": 100, "b": 100}
    assert [timing.subject for timing in result.timings] == ["a"] * 50 + ["b"] * 50


def test_one_name_for_two_subjects_is_refused():
    with pytest.raises(CompanionError, match="rename"):
        measure_group([Subject("a", lambda: None)] * 2, CpuClock(), Rounds(1, QUICK))


class AsynchronousDevice:
    """Takes work at once and does it later, as a GPU does."""

    def __init__(self):
        self.tasks, self.now = queue.Queue(), 0.0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            self.tasks.get()()
            self.tasks.task_done()

    def launch(self, seconds=0.02):
        def work():
            time.sleep(seconds)
            self.now += seconds

        self.tasks.put(work)

    def wait(self):
        self.tasks.join()


class WaitingClock(CpuClock):
    def __init__(self, device):
        self.device = device

    def time_block(self, call, iterations):
        start = time.perf_counter()
        for _ in range(iterations):
            call()
        self.device.wait()
        return (time.perf_counter() - start) / iterations


def test_guard_refuses_a_clock_that_does_not_wait():
    device = AsynchronousDevice()
    require_synchronised(WaitingClock(device), device.launch, device.wait)
    with pytest.raises(CompanionError, match="before the work has ended"):
        require_synchronised(CpuClock(), device.launch, device.wait)


def test_a_host_that_is_held_up_once_is_no_faulty_clock():
    device, delays = AsynchronousDevice(), [0.0, 0.5]

    def wait():
        device.wait()
        time.sleep(delays.pop(0) if delays else 0)

    require_synchronised(WaitingClock(device), device.launch, wait)
    assert not delays


@pytest.fixture
def gpu(monkeypatch):
    """A device whose events are stamped when its queue reaches them, in the place of torch's."""
    import torch

    device = AsynchronousDevice()

    class Event:
        def __init__(self, enable_timing=False):
            assert enable_timing
            self.reached = threading.Event()

        def record(self):
            def stamp():
                self.moment = device.now
                self.reached.set()

            device.tasks.put(stamp)

        def synchronize(self):
            self.reached.wait()

        def elapsed_time(self, later):
            assert self.reached.is_set() and later.reached.is_set(), "read before the device was there"
            return 1e3 * (later.moment - self.moment)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", device.wait)
    return device


def test_the_clock_of_a_gpu_waits_once_and_only_at_the_end(gpu):
    clock = CudaClock()
    require_synchronised(clock, gpu.launch, gpu.wait)
    assert clock.time_block(lambda: gpu.launch(0.01), 5) == pytest.approx(0.01)
    durations, all_queued, waited = [0.02, 0.01, 0.03, 0.02], threading.Event(), []
    gpu.tasks.put(lambda: waited.append(all_queued.wait(20)))

    def call():
        gpu.launch(durations.pop(0))
        if not durations:
            all_queued.set()

    times = clock.time_each(call, 3)
    assert times == pytest.approx([0.01, 0.03, 0.02])
    assert waited == [True], "the calls must be queued without waiting for each other"


def test_guard_refuses_device_events_that_are_read_on_the_wall(gpu):
    class Hasty(CudaClock):
        def time_block(self, call, iterations):
            return CpuClock().time_block(call, iterations)

    with pytest.raises(CompanionError, match="before the work has ended"):
        require_synchronised(Hasty(), gpu.launch, gpu.wait)
