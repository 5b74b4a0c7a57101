"""The pages: drawn from the code where they say so, without dead links, built into a site that fetches nothing."""

import csv
import importlib.util
import re

import pytest

from repvgg_companion.__main__ import VERBS

from .conftest import PAGES, ROOT


def script(name: str):
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_diagrams_are_up_to_date():
    assert (ROOT / "docs" / "architecture.md").read_text() == script("draw").text(), "run: make docs"


def test_the_keys_are_up_to_date_and_each_has_a_meaning():
    text = script("keys").text()
    assert (ROOT / "docs" / "keys.md").read_text() == text, "run: make docs"
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert not [row for row in rows if row.rstrip().endswith("|  |")], "a key has no description"
    (batch,) = [row for row in rows if row.startswith("| `global_batch_size`")]
    assert "fill no whole batch are left out" in batch, "test_training_input.py tests that they are"
    told = {key: next(row for row in rows if row.startswith(f"| `{key}`")) for key in ("train_folder", "zip", "labels")}
    assert "one folder of images per class" in told["train_folder"] and "train/CLASS and val/CLASS" in told["zip"]
    assert "needed for released weights" in told["labels"], "folders of any name train without"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_script_of_trainings_is_written_before_it_is_used(page):
    text = page.read_text()
    for name in re.findall(r"(?<=\s)jobs-([\w-]+)\.sh", "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))):
        assert 0 <= text.find(f"jobs config/{name}.yaml") < text.find(f" jobs-{name}.sh\n"), f"{page.name}: {name}"


def test_what_follows_is_left_out():
    assert script("draw").reduced({("a", "b"), ("b", "c"), ("a", "c")}) == {("a", "b"), ("b", "c")}


def test_contributing_names_what_exists():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z-]+)", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for verb in re.findall(r"-m repvgg_companion ([a-z-]+)", text):
        assert verb in VERBS, verb


def test_every_file_that_a_page_names_exists():
    named = r"`((?:src|tests|config|paper|workflow|docs|notebooks|benchmarks|results/reference)/[\w./-]+)`"
    # Pages tell their reader to write these.
    found = [(page, path) for page in PAGES for path in re.findall(named, page.read_text())]
    assert len(found) > 40
    for page, path in found:
        assert (ROOT / path).exists() or path.startswith("config/"), f"{page.name}: {path}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_link_is_dead(page):
    for place in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in place:
            assert (page.parent / place).exists(), f"{page.name} links {place}"


def test_the_readme_is_short_and_leads_to_every_page():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 100
    assert "git clone" in text and "@inproceedings" in text and "issues" in text
    index = (ROOT / "docs" / "index.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.stem == "index" or f"\n{page.stem}\n" in index, f"{page.stem} is not in the index of the site"


def test_the_site_is_built_without_a_warning_and_fetches_nothing(tmp_path):
    from sphinx.cmd.build import build_main

    assert (
        build_main(
            ["-q", "-W", "--keep-going", "-d", str(tmp_path / "state"), str(ROOT / "docs"), str(tmp_path / "site")]
        )
        == 0
    )
    pages = list((tmp_path / "site").glob("*.html"))
    assert {path.stem for path in pages} >= {path.stem for path in (ROOT / "docs").glob("*.md")}
    fetched = re.compile(
        r"<(?:script|img|iframe)[^>]+src=\"(?:https?:)?//|<link[^>]+href=\"(?:https?:)?//|@import|url\(['\"]?https?:"
    )
    for path in [*pages, *(tmp_path / "site/_static").glob("*.css")]:
        assert not fetched.search(path.read_text()), f"{path.name} fetches from the network"


def test_the_comparison_copies_its_numbers_from_the_facts():
    def rows(name):
        with (ROOT / "paper" / name).open(encoding="utf-8") as stream:
            return list(csv.DictReader(stream))

    others = {
        (row["model"], row["source"], row["model_form"]): row["top1_pct"] for row in rows("third_party_accuracy.csv")
    }
    timm = {
        row["model"]: row["top1_pct"] for row in rows("timm_reference.csv") if row["timm_name"].startswith("repvgg")
    }
    printed = {row["model"]: row["top1_official_pct"] for row in rows("released_checkpoints.csv")
               if row["weights_released"] != "UNCONFIRMED"}  # fmt: skip
    text = (ROOT / "docs" / "comparison.md").read_text()
    tables = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| RepVGG-")
    ]
    assert [len(cells) for cells in tables] == [6] * 11 + [3] * 11
    for model, paper, *values in tables:
        assert paper == printed[model]
        zcls = [others.get((model, "ZCls benchmark page", form)) for form in ("training", "inference (converted)")]
        before = others[model, "mmpretrain (MMClassification) model zoo, 2021 tables", "training"]
        again = others[model, "mmpretrain model zoo, current tables", "training"]
        expected = [again] if len(values) == 1 else [timm.get(model, ""), before, *zcls]
        assert values == expected, model
