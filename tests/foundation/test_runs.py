"""Which commit a result records: that of the companion and of no other repository, or the reason why none."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOUND = "a" * 40


def git(folder: Path, *words: str) -> str:
    name = ("-c", "user.name=a", "-c", "user.email=a@b")
    return subprocess.run(["git", "-C", folder, *name, *words], capture_output=True, text=True, check=True).stdout


def recorded(folder: Path, **variables: str) -> str:
    """The commit that the package in `folder` records."""
    code = "from repvgg_companion.runs import commit; print(commit())"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "PYTHONPATH": str(folder / "src"), **variables},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.fixture
def unpacked(tmp_path) -> Path:
    """The package, without its repository, inside the repository of a user."""
    outer = tmp_path / "outer"
    shutil.copytree(ROOT / "src", outer / "companion" / "src", ignore=shutil.ignore_patterns("__pycache__"))
    git(tmp_path, "init", "-q", str(outer))
    (outer / "thesis.txt").write_text("mine\n")
    git(outer, "add", "thesis.txt")
    git(outer, "commit", "-qm", "mine")
    return outer / "companion"


def test_the_commit_of_a_repository_around_the_package_is_not_recorded(unpacked):
    assert recorded(unpacked) == "unknown (not a checkout of the companion)"
    theirs = unpacked.parent / ".git"
    assert recorded(unpacked, GIT_DIR=str(theirs), GIT_WORK_TREE=str(unpacked)) == recorded(unpacked)


def test_the_commit_of_a_repository_that_the_package_was_unpacked_into_is_not_recorded(unpacked):
    shutil.move(unpacked / "src", unpacked.parent / "src")
    assert recorded(unpacked.parent) == "unknown (not a checkout of the companion)"


def test_the_commit_may_be_carried_with_the_package(unpacked):
    assert recorded(unpacked, REPVGG_COMPANION_COMMIT=FOUND) == FOUND
    (unpacked / "src/repvgg_companion/COMMIT").write_text(FOUND + "\n")
    assert recorded(unpacked) == FOUND


def test_a_checkout_records_its_commit_and_whether_it_was_changed(unpacked):
    shutil.move(unpacked, unpacked.parents[1] / "checkout")
    checkout = unpacked.parents[1] / "checkout"
    git(checkout, "init", "-q")
    assert recorded(checkout) == "unknown (not a checkout with a commit)"
    git(checkout, "add", "-A")
    git(checkout, "commit", "-qm", "one")
    head = git(checkout, "rev-parse", "HEAD").strip()
    assert recorded(checkout, REPVGG_COMPANION_COMMIT=FOUND) == head
    (checkout / "src/repvgg_companion/errors.py").open("a").write("# changed\n")
    assert recorded(checkout) == f"{head}-dirty"


def test_git_that_refuses_or_is_missing_is_named(unpacked, tmp_path):
    assert recorded(unpacked, GIT_TEST_ASSUME_DIFFERENT_OWNER="1").startswith("unknown (dubious ownership")
    assert recorded(unpacked, PATH=str(tmp_path)) == "unknown (git is not installed)"


def test_an_archive_of_the_repository_names_its_commit(tmp_path):
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "src", checkout / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".gitattributes", checkout)
    git(tmp_path, "init", "-q", str(checkout))
    git(checkout, "add", "-A")
    git(checkout, "commit", "-qm", "one")
    git(checkout, "archive", "-o", str(tmp_path / "companion.tar"), "HEAD")
    shutil.unpack_archive(tmp_path / "companion.tar", tmp_path / "downloaded")
    assert recorded(tmp_path / "downloaded") == git(checkout, "rev-parse", "HEAD").strip()
