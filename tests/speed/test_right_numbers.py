"""What can make a row silently wrong: logits, missing operators, ceilings, clocks, memory, and how calls are timed."""

import json
from dataclasses import replace

import pytest
import torch

from repvgg_companion.errors import CompanionError
from repvgg_companion.models.repvgg import RepVGG
from repvgg_companion.speed import backends, group, preparation
from repvgg_companion.speed.backends import PreparedCall, conv_backends, make_call
from repvgg_companion.speed.ceilings import ceilings_of
from repvgg_companion.speed.engines import Unavailable
from repvgg_companion.speed.fused import FusedConvolution, count_fused, fuse
from repvgg_companion.speed.group_record import GroupRecord, MeasuredNetwork
from repvgg_companion.speed.harness import LIMITS, Limits, Subject, warm_up
from repvgg_companion.speed.networks import Inputs, ModelForm
from repvgg_companion.speed.preparation import check_output, sees_memory
from repvgg_companion.speed.programme import Condition, Method, SpeedGroup
from repvgg_companion.speed.roofline import share_of_roofline
from repvgg_companion.speed.rows import RunOfGroups
from repvgg_companion.speed.samples import Samples

METHOD = Method("cpu", 1, 20, replace(LIMITS["cpu"], block_seconds=0.0), input_px=32)
NETWORKS = (ModelForm("ResNet-18", "deploy", 0.125, 10), ModelForm("RepVGG-A0", "deploy", 0.125, 10))
EAGER = SpeedGroup("g", Condition("interleaved", "fp32", "channels_last", "eager", 1), NETWORKS)
FUSED = replace(EAGER, condition=replace(EAGER.condition, backend="fused"))


def never():
    raise AssertionError("eager's own error is asked only where the difference is above the limit")


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-4), ("tf32", 1e-3), ("bf16", 3e-2)])
def test_logits_are_compared_with_eagers(precision, limit):
    expected = torch.tensor([[1.0, -2.0]])
    near, far = expected + 1.8 * limit, expected + 2.2 * limit
    assert check_output(near, expected, precision, never) == pytest.approx(0.9 * limit, rel=0.01)
    with pytest.raises(Unavailable, match="the output is wrong"):
        check_output(far, expected, precision, lambda: 0.0)
    # A network that amplifies rounding is judged by eager's own error.
    assert check_output(far, expected, precision, lambda: limit) > limit
    with pytest.raises(Unavailable, match="not finite"):
        check_output(expected * float("nan"), expected, precision, never)


def test_a_network_that_amplifies_rounding_is_measured():
    network = ModelForm("RepVGG-D2se", "train", 0.25, 10)
    fused = SpeedGroup("g", replace(EAGER.condition, backend="fused"), (network,))
    with torch.inference_mode():
        member, subject = preparation.prepared(network, fused.condition, METHOD, preparation.Known())
    assert subject is not None, member.reason
    assert member.output_error > 0


def test_a_backend_with_wrong_logits_gives_an_empty_row(monkeypatch):
    def wrong(backend, module, inputs, **options):
        call = make_call(backend, module, inputs, **options)
        spoilt = isinstance(module, RepVGG)
        return PreparedCall(lambda: call() * 1.01 if spoilt else call())

    monkeypatch.setattr(preparation, "make_call", wrong)
    record = group.measure(FUSED, METHOD)
    right, spoilt = record.members
    assert spoilt.reason.startswith("the output is wrong: 1.0e-02 from eager's")
    assert right.reason == ""
    assert right.output_error < 1e-4


def test_eagers_logits_are_computed_once_for_all_backends():
    known = preparation.Known()
    with torch.inference_mode():
        member, _ = preparation.prepared(NETWORKS[1], EAGER.condition, METHOD, known)
        assert member.reason == ""
        (logits,) = known.logits.values()
        assert preparation.prepared(NETWORKS[1], FUSED.condition, METHOD, known)[0].output_error < 1e-4
        logits *= 1.01  # were they computed again, this would not show
        spoilt = preparation.prepared(NETWORKS[1], FUSED.condition, METHOD, known)[0]
        assert spoilt.output_error == pytest.approx(0.01, rel=0.1)


def test_logits_that_are_not_finite_are_compared_with_nothing(monkeypatch):
    def broken(backend, module, inputs, **options):
        return PreparedCall(lambda: torch.full((1, 10), float("nan")))

    known = preparation.Known()
    monkeypatch.setattr(preparation, "make_call", broken)
    with torch.inference_mode():
        assert "not finite" in preparation.prepared(NETWORKS[1], EAGER.condition, METHOD, known)[0].reason
    assert not known.logits


def test_fused_operators_are_counted_and_none_is_not_available(monkeypatch):
    module, images = NETWORKS[1].build(), [torch.randn(1, 3, 32, 32)]
    graph = fuse(module, images[0])
    convolutions = [part for part in graph.modules() if isinstance(part, FusedConvolution)]
    assert count_fused(graph) == (22, 22)
    monkeypatch.setattr(backends, "fuse", lambda *_: graph)
    for part in convolutions[:20]:
        part.way = "separate"
    with torch.inference_mode():
        assert make_call("fused", module, images, threads=1).fused_operators == (2, 22)
        for part in convolutions:
            part.way = "separate"
        with pytest.raises(Unavailable, match="serves any of its 22 convolutions"):
            make_call("fused", module, images, threads=1)
    member = MeasuredNetwork("RepVGG-A0", "deploy", "channels_last", 32, fused_operators=(2, 22))
    assert member.flags == ["fused operators for 2 of 22 convolutions"]
    member.fused_operators = (22, 22)
    assert member.flags == []


def test_a_lost_device_is_not_taken_for_a_missing_operator():
    conv = torch.nn.Conv2d(4, 4, 3, padding=1)
    fused = FusedConvolution(conv, (2, 4, 8, 8), relu=True, adds=False)

    def lost(*_):
        raise torch.AcceleratorError("an illegal memory access was encountered")

    fused.forward = lost
    with pytest.raises(torch.AcceleratorError):
        fused.choose_way(torch.randn(2, 4, 8, 8))


@pytest.fixture(scope="module")
def record():
    return group.measure(EAGER, METHOD)


def test_ceilings_are_measured_in_every_round(record):
    rates = record.ceiling_rates()
    assert [moment[2] for moment in rates] == list(range(20))
    assert all(rate > 1e8 for pair in rates.values() for rate in pair)
    (found,) = ceilings_of([record]).values()
    assert found.precision == "fp32"
    assert "convolution" in found.how
    again = GroupRecord.from_dict(json.loads(json.dumps(record.as_dict())))
    assert again.ceiling_rates() == rates
    assert {sample.model for sample in record.samples if sample.role == "timed"} == {"ResNet-18", "RepVGG-A0"}


def test_a_share_of_the_roofline_is_a_paired_ratio(record):
    key = {"model": "RepVGG-A0", "form": "deploy", "width": 0.125, "num_classes": 10, "input_px": 32}
    row = record.condition | key
    samples = Samples("r", "cpu-x", tuple(record.samples)).of(row)
    share = share_of_roofline(row, samples, record.ceiling_rates())
    assert 0 < share.low <= share.value <= share.high
    assert share.n == 20
    # A machine that is slower in some rounds slows the network and the ceilings, and the share stays.
    slow = {moment: 1.0 + moment[2] for moment in record.ceiling_rates()}
    steady = [replace(sample, seconds=0.01 * slow[0, "g", sample.round]) for sample in samples]
    rates = {moment: (1e12 / factor, 1e11 / factor) for moment, factor in slow.items()}
    paired = share_of_roofline(row, steady, rates)
    assert paired.high / paired.low == pytest.approx(1)
    assert share_of_roofline(row, samples, {}) is None


def test_no_share_is_given_from_few_rounds_or_under_an_unreliable_ceiling(record):
    def shares(record):
        samples = Samples("r", "cpu-x", tuple(record.samples))
        rows, work = RunOfGroups([record], samples, LIMITS["cpu"], 0.125, 10).rows("x")
        assert len(work) == sum(row["roofline_share"] is not None for row in rows)
        return [(row["roofline_share"], row["flags"]) for row in rows]

    quick = [replace(one, seconds=one.seconds / 1e3) if one.role == "ceiling" else one for one in record.samples]
    assert all(0 < share < 1 for share, _ in shares(replace(record, samples=quick)))
    few = [one for one in quick if one.round < 3]
    assert all(
        share is None and "few samples: 3 of 20" in flags for share, flags in shares(replace(record, samples=few))
    )
    slow = [replace(one, seconds=one.seconds * 1e3) if one.role == "ceiling" else one for one in record.samples]
    assert all(share is None and "ceiling" in flags for share, flags in shares(replace(record, samples=slow)))


def test_no_ceilings_are_measured_where_none_are_wanted():
    found = group.measure(EAGER, replace(METHOD, roofline=False))
    assert found.ceiling is None
    assert found.ceiling_rates() == {}


def test_a_failed_clock_check_ends_one_group(monkeypatch):
    def refused(subject, kind):
        raise CompanionError("the clock stops too early")

    monkeypatch.setattr(group, "check_clock", refused)
    found = group.measure(EAGER, METHOD)
    assert {member.reason for member in found.members} == {"the clock stops too early while the group was measured"}
    assert found.samples == []


def test_memory_is_left_empty_where_torch_does_not_see_it():
    assert sees_memory("compile", "cpu")
    assert not sees_memory("compile", "cuda"), "a replayed graph allocates nothing"
    assert sees_memory("cuda-graph", "cuda"), "its network is run once without the graph"
    assert not sees_memory("openvino", "cpu")


@pytest.mark.parametrize(
    ("version", "allowed"),
    [("2.11.0+cu128", "ATEN"), ("2.12.1", "ATEN"), ("2.13.0+cpu", "ATEN,TRITON"), ("3.0", "ATEN,TRITON")],
)
def test_convolutions_are_compiled_by_aten_on_versions_without_the_cap(version, allowed):
    assert conv_backends(version) == allowed


def test_the_machine_is_read_in_the_middle_of_the_rounds(record):
    assert list(record.readings) == ["before", "during", "after"]
    assert record.readings["during"]["cpu"]["load_average"]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_inputs_are_drawn_in_their_type_and_format(precision):
    first, second = Inputs(2, (3, 8, 6), precision, "channels_last", "cpu").draw(2)
    assert first.shape == (2, 3, 8, 6)
    assert first.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert first.is_contiguous(memory_format=torch.channels_last)
    assert not torch.equal(first, second)
    assert first.float().std() == pytest.approx(1, abs=0.2)


class Steady:
    """A clock that finds the same time again and again."""

    def __init__(self, seconds):
        self.seconds = seconds

    def time_block(self, call, iterations):
        return self.seconds


@pytest.mark.parametrize(("seconds", "iterations"), [(1.0, 1), (0.021, 1), (0.015, 5), (0.001, 50)])
def test_long_calls_are_warmed_up_three_times_and_timed_alone(seconds, iterations):
    subject = Subject("a", lambda: None)
    calls, stable = warm_up(subject, Steady(seconds), Limits(0.0, 3, 0.050, 5, 2.0, 5.0))
    assert (calls, stable) == (3, True)
    assert subject.iterations == iterations
    assert LIMITS["cuda"].warm_up_calls == 3
