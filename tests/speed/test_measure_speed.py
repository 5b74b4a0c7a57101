"""The verb on small networks: rows derived again from the raw samples, groups, reasons, resuming."""

import json
import statistics
from dataclasses import replace

import pytest
import torch

from repvgg_companion.__main__ import main
from repvgg_companion.contract import read_rows
from repvgg_companion.errors import CompanionError
from repvgg_companion.models.build import build_model
from repvgg_companion.speed import group, peak_memory, preparation, programme
from repvgg_companion.speed.effort import MeasureRequest
from repvgg_companion.speed.harness import measure_group
from repvgg_companion.speed.measure_speed import MeasureSpeedRequest, measure_start
from repvgg_companion.speed.networks import ModelForm, fill
from repvgg_companion.speed.samples import Samples, find_run
from repvgg_companion.speed.speed_settings import SpeedSettings
from repvgg_companion.speed.statistics import median_interval

SMALL = {
    "models": ["RepVGG-A0", "RepVGG-B0_relu-in-branch"],
    "baselines": ["ResNet-18"],
    "input_px": 32,
    "width": 0.125,
    "num_classes": 10,
    "threads": 1,
}


def measure(folder, *more, **changes):
    places = {"--output": "speed.csv", "--samples": "speed", "--runs": "runs"}
    options = [word for option, name in places.items() for word in (option, str(folder / name))]
    return main(["measure-speed", "--experiment", "test", "--plan", json.dumps(SMALL | changes), *options, *more])


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    assert measure(folder) == 0
    return folder


def test_every_row_is_derived_again_from_the_raw_samples(measured):
    rows = read_rows(measured / "speed.csv", "speed")
    assert {(row["model"], row["form"]) for row in rows} == {
        ("RepVGG-A0", "train"),
        ("RepVGG-A0", "deploy"),
        ("RepVGG-B0_relu-in-branch", "train"),
        ("ResNet-18", "deploy"),
    }
    run = find_run(measured / "speed", rows[0]["run_id"])
    for row in rows:
        assert row["n_samples"] >= 20
        assert row["weights_sha256"] == "random"
        assert row["device"] == run.device
        seconds = [sample.seconds for sample in run.of(row)]
        # The arithmetic is done here again, from the times alone.
        time = median_interval(seconds)
        assert row["examples_per_s"] == pytest.approx(1 / time.value, rel=1e-9)
        assert row["low_examples_per_s"] == pytest.approx(1 / time.high, rel=1e-9)
        assert row["high_examples_per_s"] == pytest.approx(1 / time.low, rel=1e-9)
        assert row["low_examples_per_s"] <= row["examples_per_s"] <= row["high_examples_per_s"]
        ranked = sorted(1 / value for value in seconds)
        assert row["p10_examples_per_s"] == pytest.approx(ranked[1] + 0.9 * (ranked[2] - ranked[1]))
        assert row["p90_examples_per_s"] == pytest.approx(ranked[17] + 0.1 * (ranked[18] - ranked[17]))


def test_the_deploy_form_of_a_row_has_no_branches(measured):
    rows = {(row["model"], row["form"]): row for row in read_rows(measured / "speed.csv", "speed")}
    assert rows["RepVGG-A0", "deploy"]["params"] < rows["RepVGG-A0", "train"]["params"]
    for (model, form), row in rows.items():
        module = build_model(model, num_classes=10, width=0.125, form=form)
        assert row["params"] == sum(parameter.numel() for parameter in module.parameters())
        if form == "deploy":
            assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in module.modules())


def test_the_run_is_recorded(measured):
    rows = read_rows(measured / "speed.csv", "speed")
    facts = json.loads((measured / "runs" / f"{rows[0]['run_id']}.json").read_text())
    assert facts["settings"]["rounds"] == 20
    assert facts["torch_flags"]["threads"] == 1
    group = facts["groups"][0]
    assert group["readings"]["before"]["cpu"]["load_average"]
    assert set(group["samples"]["ResNet-18 deploy"]) == {"median_s", "p10_s", "p90_s", "mean_s"}
    assert facts["process_peak_mib"] > 0


def test_ratio_of_the_two_forms_comes_from_paired_rounds(measured):
    rows = {(row["model"], row["form"]): row for row in read_rows(measured / "speed.csv", "speed")}
    run = find_run(measured / "speed", rows["RepVGG-A0", "train"]["run_id"])
    ratio = run.ratio(rows["RepVGG-A0", "deploy"], rows["RepVGG-A0", "train"])
    assert ratio.n == 20
    seconds = {
        form: {sample.round: sample.seconds for sample in run.of(rows["RepVGG-A0", form])}
        for form in ("train", "deploy")
    }
    of_rounds = [seconds["train"][number] / taken for number, taken in seconds["deploy"].items()]
    assert ratio.value == pytest.approx(statistics.median(of_rounds)) and ratio.low <= ratio.value <= ratio.high


def test_a_backend_that_is_missing_gives_empty_rows_with_the_reason(tmp_path):
    assert measure(tmp_path, backends=["cuda-graph", "eager"], precisions=["tf32"]) == 0
    rows = read_rows(tmp_path / "speed.csv", "speed")
    assert {row["backend"] for row in rows} == {"cuda-graph", "eager"}
    for row in rows:
        assert row["examples_per_s"] is None
        assert row["n_samples"] == 0
        assert "not measured: a CPU has no tf32" in row["flags"]


def test_out_of_memory_is_recorded_and_the_rest_goes_on(tmp_path, monkeypatch):
    build = ModelForm.build

    def without_memory(self, **options):
        if self.model == "RepVGG-A0" and self.form == "train":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return build(self, **options)

    monkeypatch.setattr(ModelForm, "build", without_memory)
    assert measure(tmp_path, models=["RepVGG-A0"]) == 0
    rows = {(row["model"], row["form"]): row for row in read_rows(tmp_path / "speed.csv", "speed")}
    assert rows["RepVGG-A0", "train"]["flags"] == "not measured: out of memory at batch 1"
    assert rows["RepVGG-A0", "train"]["examples_per_s"] is None
    assert rows["RepVGG-A0", "deploy"]["n_samples"] == 20


def test_memory_that_runs_out_while_a_group_is_measured_is_recorded_too(tmp_path, monkeypatch):
    calls = 0

    def harness(subjects, *rest, **options):
        nonlocal calls
        calls += 1
        if calls == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return measure_group(subjects, *rest, **options)

    monkeypatch.setattr(group, "measure_group", harness)
    assert measure(tmp_path, models=["RepVGG-A0", "RepVGG-B0"], forms=["deploy"], group_size=2) == 0
    rows = {row["model"]: row for row in read_rows(tmp_path / "speed.csv", "speed")}
    assert rows["RepVGG-A0"]["flags"] == "not measured: out of memory at batch 1 while the group was measured"
    assert rows["RepVGG-B0"]["n_samples"] == 20
    assert "partly not measured" in rows["ResNet-18"]["flags"]


def test_a_backend_that_fails_gives_a_reason_and_a_lost_device_ends_the_run(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no engine to execute this computation\nand more")

    monkeypatch.setattr(preparation, "make_call", broken)
    assert measure(tmp_path, models=["RepVGG-A0"]) == 0
    for row in read_rows(tmp_path / "speed.csv", "speed"):
        assert row["flags"] == "not measured: eager failed (no engine to execute this computation)"

    def lost(*_, **__):
        raise torch.AcceleratorError("an illegal memory access was encountered")

    monkeypatch.setattr(preparation, "make_call", lost)
    with pytest.raises(torch.AcceleratorError):
        settings = SpeedSettings.from_mapping(SMALL)
        group.measure(next(programme.programme(settings)), programme.Method.of(settings))


def test_a_stopped_programme_goes_on_with_the_next_group(tmp_path):
    changes = {"models": ["RepVGG-A0", "RepVGG-B0"], "batch_sizes": [1, 2]}
    state = ("--state", str(tmp_path / "state"))
    assert measure(tmp_path, *state, "--minutes", "0", **changes) == 75
    assert not (tmp_path / "speed.csv").exists()
    assert measure(tmp_path, *state, **changes) == 0
    kept = sorted((tmp_path / "state").iterdir())
    assert len(kept) == 4
    first = (tmp_path / "speed.csv").read_text()
    kept[0].unlink()
    assert measure(tmp_path, *state, **changes) == 0
    again = read_rows(tmp_path / "speed.csv", "speed")
    before = {line.split(",")[21] for line in first.splitlines()[1:]}
    same = sum(str(row["examples_per_s"]) in before for row in again)
    assert 0 < same < len(again), "three groups are kept, one is measured again"
    (tmp_path / "state" / "notes.txt").write_text("mine")
    assert measure(tmp_path, *state, "--forget", **changes) == 0
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["notes.txt"]


def test_nothing_is_left_of_the_state_when_all_is_written_also_after_a_kill(tmp_path):
    folder = tmp_path / "measuring-speed"
    (folder / ".group-0123.json.x.partial").mkdir(parents=True)  # killed while the file was written
    (folder / "group-0123.json").touch()
    request = MeasureRequest(
        experiment="t", output=str(tmp_path / "rows.csv"), runs="", state=str(folder), finish=True, forget=True
    )
    request.write("speed", [])
    assert len(list(folder.iterdir())) == 2
    replace(request, finish=False).write("speed", [])
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_no_group_is_begun_that_will_not_fit_and_finish_writes_what_is_there(tmp_path):
    changes = {"models": ["RepVGG-A0", "RepVGG-B0"], "forms": ["deploy"], "group_size": 2}
    state = ("--state", str(tmp_path / "state"))
    assert measure(tmp_path, *state, "--finish", **changes) == 2, "nothing is measured yet"
    # There is time for the first group, which is begun whatever it takes; the second would end after the limit.
    assert measure(tmp_path, *state, "--minutes", "0.001", **changes) == 75
    (kept,) = (tmp_path / "state").iterdir()
    assert json.loads(kept.read_text())["seconds"] > 0
    assert measure(tmp_path, *state, "--finish", **changes) == 0
    rows = read_rows(tmp_path / "speed.csv", "speed")
    assert {row["model"] for row in rows} == {"RepVGG-A0", "ResNet-18"}
    assert len(list((tmp_path / "state").iterdir())) == 1


def test_samples_of_a_row_are_those_of_all_process_starts():
    settings = SpeedSettings.from_mapping(SMALL | {"rounds": 7, "process_starts": 3})
    assert settings.rounds * settings.process_starts == 21
    with pytest.raises(CompanionError, match="rounds times process_starts must be at least 20"):
        SpeedSettings.from_mapping(SMALL | {"rounds": 7, "process_starts": 2})


@pytest.mark.slow
def test_several_process_starts_are_pooled(tmp_path):
    assert measure(tmp_path, models=["RepVGG-A0"], process_starts=2) == 0
    rows = read_rows(tmp_path / "speed.csv", "speed")
    assert {row["n_samples"] for row in rows} == {40}
    run = Samples.read(next((tmp_path / "speed").glob("*/*.parquet")))
    assert {sample.start for sample in run.samples} == {0, 1}


def test_the_memory_format_is_found_by_a_probe(tmp_path):
    assert measure(tmp_path, models=["RepVGG-A0"], memory_formats=["probe"]) == 0
    rows = read_rows(tmp_path / "speed.csv", "speed")
    assert {row["memory_format"] for row in rows} <= {"contiguous", "channels_last"}
    facts = json.loads(next((tmp_path / "runs").iterdir()).read_text())
    for member in facts["groups"][0]["members"]:
        assert min(member["probe_s"], key=member["probe_s"].get) == member["memory_format"]


def test_a_memory_format_is_probed_once_in_a_run(tmp_path, monkeypatch):
    answers = iter(["contiguous", "channels_last", "contiguous"] + ["channels_last", "contiguous"] * 9)
    probed = []

    def probe(module, *_):
        probed.append(module)
        return next(answers), {}

    monkeypatch.setattr(preparation, "probe", probe)
    changes = {"models": ["RepVGG-A0", "RepVGG-B0"], "forms": ["deploy"], "group_size": 2, "memory_formats": ["probe"]}
    assert measure(tmp_path, "--state", str(tmp_path / "state"), **changes) == 0
    assert len(probed) == 3, "the anchor is in two groups"
    rows = {row["model"]: row for row in read_rows(tmp_path / "speed.csv", "speed")}
    assert {model: row["memory_format"] for model, row in rows.items()} == {
        "ResNet-18": "contiguous", "RepVGG-A0": "channels_last", "RepVGG-B0": "contiguous"}  # fmt: skip
    run = find_run(tmp_path / "speed", rows["RepVGG-A0"]["run_id"])
    assert run.ratio(rows["RepVGG-A0"], rows["RepVGG-B0"]).value > 0, "through the anchor in another format"
    # A later process start takes the formats of the first.
    first = programme.programme(SpeedSettings.from_mapping(SMALL | changes))
    settings = SpeedSettings.from_mapping(SMALL | changes | {"process_starts": 2})
    request = MeasureSpeedRequest(
        experiment="t", plan="", output="", samples="", runs="", state=str(tmp_path / "state")
    )
    records = measure_start(settings, request, 1)
    assert len(probed) == 3
    assert [[member.memory_format for member in record.members] for record in records] == [
        ["contiguous", "channels_last"], ["contiguous", "contiguous"]]  # fmt: skip
    assert len(list(first)) == len(records)


DEMO = {
    "models": [
        "RepVGG-A0", "RepVGG-A1", "RepVGG-A2", "RepVGG-B0", "RepVGG-B1", "RepVGG-B1g2", "RepVGG-B1g4", "RepVGG-B2",
        "RepVGG-B2g2", "RepVGG-B2g4", "RepVGG-B3", "RepVGG-B3g2", "RepVGG-B3g4", "RepVGG-D2se",
    ],
    "baselines": ["ResNet-18", "ResNet-50"],
    "input_px": 224,
}  # fmt: skip


def test_groups_hold_the_anchor_and_both_forms_of_a_model():
    settings = SpeedSettings.from_mapping(DEMO)
    groups = programme.groups(settings)
    entries = [network for group in groups for network in group]
    assert all(len(group) <= 4 and group[0] == ModelForm("ResNet-18", "deploy") for group in groups)
    assert len(set(entries)) == 30
    assert len(entries) == 29 + len(groups)
    for model in DEMO["models"]:
        homes = [{number for number, group in enumerate(groups) if ModelForm(model, form) in group}
                 for form in ("train", "deploy")]  # fmt: skip
        assert homes[0] == homes[1]
        assert len(homes[0]) == 1


def test_groups_are_cut_by_the_memory_limit():
    roomy = programme.groups(SpeedSettings.from_mapping(DEMO | {"device": "cpu"}))
    tight = programme.groups(SpeedSettings.from_mapping(DEMO | {"device": "cpu", "memory_limit_mib": 1700}))
    assert len(tight) > len(roomy)
    with pytest.raises(CompanionError, match="memory_limit_mib"):
        programme.groups(SpeedSettings.from_mapping(DEMO | {"device": "cpu", "memory_limit_mib": 1200}))


def test_the_papers_protocol_has_its_own_conditions():
    settings = SpeedSettings.from_mapping(DEMO | {"protocols": ["paper", "interleaved"], "precisions": ["bf16"]})
    assert [condition.label for condition in programme.conditions(settings)] == [
        "paper fp32 contiguous eager batch 128",
        "interleaved bf16 channels_last eager batch 1",
    ]


@pytest.mark.parametrize("form", ["train", "deploy"])
@pytest.mark.parametrize("model", ["RepVGG-B0", "RepVGG-B1g4", "RepVGG-D2se", "ResNet-50"])
def test_random_weights_keep_activations_alive(model, form):
    # A network whose activations die, overflow or become denormal runs at another speed.
    module = ModelForm(model, form, 0.25).build()
    sizes = []
    for part in module.modules():
        if isinstance(part, torch.nn.Conv2d) and part.kernel_size == (3, 3):
            part.register_forward_hook(lambda _, __, output: sizes.append(output.std().item()))
    with torch.inference_mode():
        module(torch.randn(1, 3, 64, 64))
    assert min(sizes) > 1e-4
    assert max(sizes) < 1e4


def test_filling_leaves_nothing_uninitialised():
    module = build_model("RepVGG-A0", num_classes=10, width=0.25)
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            tensor.fill_(float("nan") if tensor.is_floating_point() else 7)
    fill(module)
    assert all(torch.isfinite(tensor).all() for tensor in [*module.parameters(), *module.buffers()])


def test_peak_memory_of_a_plain_stack_is_that_of_its_feature_maps():
    # In place ReLU: the highest moment of x -> conv -> conv holds one convolution's input and output.
    layers = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 1), torch.nn.ReLU(inplace=True), torch.nn.Conv2d(8, 8, 1))
    images = torch.randn(1, 8, 256, 256)
    with torch.inference_mode():
        layers(images)
        peak = peak_memory.peak_call_mib(lambda: layers(images), "cpu")
    one = images.numel() * 4 / 2**20
    assert 2 * one <= peak <= 4.5 * one


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"roundss": 3}, "roundss is not a known key"),
        ({"rounds": 5}, "at least 20"),
        ({"models": ["RepVGG-A0", "RepVGG-A0"]}, "twice"),
        ({"anchor": "RepVGG-B3"}, "anchor RepVGG-B3"),
        ({"precisions": ["fp8"]}, "fp8"),
        ({"batch_sizes": [0]}, "batch_sizes"),
        ({"rounds": True}, "rounds"),
        ({"models": []}, "models is empty"),
        ({"width": 0}, "width"),
        ({"memory_formats": ["probe", "contiguous"]}, "probe"),
        ({"memory_formats": ["nchw"]}, "now called contiguous"),
    ],
)
def test_wrong_settings_are_refused_with_the_key(change, words):
    with pytest.raises(CompanionError, match=words):
        SpeedSettings.from_mapping(SMALL | change)


def test_a_broken_plan_is_one_sentence(tmp_path, capsys):
    assert measure(tmp_path, models=["RepVGG-A9"]) == 2
    assert "RepVGG-A9" in capsys.readouterr().err
    assert main(["measure-speed", "--experiment", "t", "--plan", "{not json", "--output", "x", "--samples", "y",
                 "--runs", "z"]) == 2  # fmt: skip
    assert capsys.readouterr().err.count("\n") == 1
