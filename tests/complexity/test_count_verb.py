"""The verb `count-complexity`: its rows follow the contract, and mistakes are one sentence."""

from repvgg_companion import __main__ as cli
from repvgg_companion.complexity.count_complexity import count_model
from repvgg_companion.contract import read_rows


def count(tmp_path, *arguments):
    status = cli.main(["count-complexity", "--experiment", "test", "--output", str(tmp_path / "rows.csv"),
                       "--runs", str(tmp_path / "runs"), *arguments])  # fmt: skip
    rows = read_rows(tmp_path / "rows.csv", "complexity") if (tmp_path / "rows.csv").exists() else []
    return status, rows


def test_a_row_for_each_form_that_a_model_has(tmp_path):
    models = ["RepVGG-A0", "EfficientNet-B3", "RepVGG-B0_residual-reorg", "PSPNet-RepVGG-B1g2_fast"]
    status, rows = count(tmp_path, "--models", *models)
    assert status == 0
    forms = {(row["model"], row["form"]): row for row in rows}
    assert set(forms) == {
        *((model, form) for model in models for form in ("train", "deploy") if "reorg" not in model),
        ("RepVGG-B0_residual-reorg", "train"),
    }
    assert (
        forms["RepVGG-A0", "deploy"]["params"] == 8_309_384 and forms["RepVGG-A0", "deploy"]["flops"] == 1_361_451_008
    )
    assert forms["RepVGG-A0", "train"]["params"] == 9_108_968
    assert forms["EfficientNet-B3", "deploy"]["input_px"] == 300
    assert forms["EfficientNet-B3", "deploy"]["wino_muls"] is None
    assert forms["PSPNet-RepVGG-B1g2_fast", "train"]["base_model"] == "PSPNet-RepVGG-B1g2"
    assert len(list((tmp_path / "runs").glob("*.json"))) == 1


def test_the_demo_network_is_counted_as_built(tmp_path):
    status, rows = count(
        tmp_path, "--models", "RepVGG-A0", "--width", "0.25", "--num-classes", "10", "--input-px", "32"
    )
    assert status == 0
    expected = count_model("RepVGG-A0", input_px=32, num_classes=10, width=0.25)
    assert [row["params"] for row in rows if row["form"] == "deploy"] == [expected.params]
    assert {(row["width"], row["num_classes"], row["input_px"]) for row in rows} == {(0.25, 10, 32)}


def test_classes_of_indexed_images(tmp_path):
    dataset, own = tmp_path / "dataset.json", "RepVGG-1.1.1.1.1-a0.25-b0.25"
    dataset.write_text('{"num_classes": 7}')
    words = ["--models", "RepVGG-A0", own, "--input-px", "224", "--dataset", str(dataset)]
    status, rows = count(tmp_path, *words)
    assert status == 0 and {(row["model"], row["num_classes"]) for row in rows} == {("RepVGG-A0", 7), (own, 7)}
    dataset.write_text('{"num_classes": 1000}')  # the paper's RepVGG-A0, which is counted with the other networks
    status, rows = count(tmp_path, *words)
    assert status == 0 and {(row["model"], row["num_classes"]) for row in rows} == {(own, 1000)}


def test_mistakes_are_one_sentence_and_leave_no_file(tmp_path, capsys):
    (tmp_path / "list.json").write_text("[]")
    for arguments in (["RepVGG-A0", "--dataset", str(tmp_path / "list.json")],
                      ["RepVGG-A0", "--dataset", str(tmp_path / "no.json")],
                      ["RepVGG-A0", "--dataset", str(tmp_path / "list.json"), "--num-classes", "7"],
                      ["RepVGG-A7"], ["RepVGG-A0", "RepVGG-A0"], ["RepVGG-A0", "--input-px", "0"],
                      ["RepVGG-A0", "--width", "-1"]):  # fmt: skip
        assert count(tmp_path, "--models", *arguments) == (2, [])
        assert capsys.readouterr().err.count("\n") == 1
