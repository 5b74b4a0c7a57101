"""The text of an experiment file: what YAML would pass over in silence is refused."""

import pytest

from repvgg_companion.errors import CompanionError
from repvgg_companion.experiment.read_yaml import read_keys


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "experiment: mine\nevaluation: {}\ndata: {}\nevaluation: {}\n",
            "key evaluation twice, in line 2 and in line 4",
        ),
        ("recipes:\n  a: {epochs: 1}\n  a: {epochs: 2}\n", "has the key a twice, in line 2 and in line 3"),
        ("training:\n  - models: [A]\n    recipe: x\n    models: [B]\n", "key models twice, in line 2 and in line 4"),
        ("data: {zip: a, zip: b}\n", "key zip twice, in line 1 and in line 1"),
        ("a: &x {b: 1}\nc: {<<: *x, d: 1, d: 2}\n", "key d twice"),
        ("", "holds no keys"),
        ("# a remark\n", "holds no keys"),
        ("- 1\n", "holds no keys"),
        ("{}\n", "holds no keys"),
        ("a: 2026-13-01\n", "is not valid YAML: month must be in"),
        ("a: [1\n", "is not valid YAML"),
        ("a: 1\n---\nb: 1\n", "is not valid YAML"),
    ],
)
def test_what_yaml_would_pass_over_is_refused_with_file_and_line(text, said, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(CompanionError) as caught:
        read_keys(file)
    assert str(caught.value).startswith(f"{file} ") and said in str(caught.value) and "\n" not in str(caught.value)
    file.write_bytes(b"a: \xff\n")
    with pytest.raises(CompanionError, match=r"is not UTF-8 text \(byte 3\)"):
        read_keys(file)
    (tmp_path / "train.safetensors").write_bytes(b"a: \xff\n")
    with pytest.raises(CompanionError, match=r"is a weights file, not an experiment file; .* weights inspect"):
        read_keys(tmp_path / "train.safetensors")


def test_a_merged_mapping_may_be_overridden_and_an_alias_used_twice(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("a: &x {b: 1, c: 1}\nd: {<<: *x, b: 2}\ne: [*x, *x]\n")
    assert read_keys(file)["d"] == {"b": 2, "c": 1}
