"""The Makefile: the set-up whatever the user's settings of pip are, and the experiment that is named."""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from .conftest import ROOT


def make(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess:
    """Run make in `folder` without the variables of the outer Python and the outer make."""
    outer = ("PIP_", "PYTHON", "MAKE", "MFLAGS")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(outer)}
    environment = {**inherited, "HOME": str(folder), **variables}
    return subprocess.run(
        ["make", f"PYTHON={sys.executable}", *words],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def companion(tmp_path) -> Path:
    """A folder with the Makefile and a lock file of one tiny package, which lies beside it as a wheel."""
    folder = tmp_path / "companion"
    (folder / "src").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    wheel = folder / "wheels" / "snakemake-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    about = "snakemake-1.0.dist-info"
    files = {
        "snakemake/__init__.py": "",
        f"{about}/METADATA": "Metadata-Version: 2.1\nName: snakemake\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{about}/RECORD"] = "".join(f"{name},,\n" for name in (*files, f"{about}/RECORD"))
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (folder / "requirements.lock").write_text(f"snakemake==1.0 --hash=sha256:{digest}\n")
    return folder


def installed(folder: Path) -> list[Path]:
    return list(folder.glob(".venv/lib/python*/site-packages/snakemake/__init__.py"))


@pytest.mark.parametrize("place", ["target", "prefix", "root"])
def test_the_set_up_ignores_settings_of_pip_for_other_installations(companion, place):
    """PIP_FIND_LINKS and PIP_NO_INDEX say where packages come from, and count."""
    (companion / ".config/pip").mkdir(parents=True)
    (companion / ".config/pip/pip.conf").write_text(f"[install]\n{place} = {companion}/configured\n")
    sources = {"PIP_FIND_LINKS": str(companion / "wheels"), "PIP_NO_INDEX": "1"}
    leaking = {"PIP_TARGET": str(companion / "elsewhere"), "PIP_PREFIX": str(companion / "prefix"), "PIP_USER": "1",
               "PIP_DRY_RUN": "1", "PIP_REQUIRE_VIRTUALENV": "1", "PYTHONHOME": "/nowhere"}  # fmt: skip
    done = make(companion, "setup", **sources, **leaking)
    assert done.returncode == 0, done.stdout + done.stderr
    assert installed(companion) and (companion / ".venv/.ready").exists()
    (found,) = companion.glob(".venv/lib/python*/site-packages/repvgg_companion.pth")
    assert found.read_text() == f"{companion}/src\n", "an activated .venv finds the package"
    assert not [name for name in ("elsewhere", "configured", "prefix") if (companion / name).exists()]


PIP_STAND_IN = """#!/bin/bash
case "$*" in
  --version) echo Python 3.11.9;;
  "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python";;
  *sysconfig*) echo .venv;;
  "-m pip "*)
    echo Collecting torch==2.13.0
    echo "  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (532.0 MB)"
    echo "Using cached https://somewhere/triton-3.7.1-py3-none-any.whl (1.2 GB)"
    echo "  Downloading six-1.17.0-py2.py3-none-any.whl (11.0 kB)"
    echo "Installing collected packages: six, torch, triton"
    exit $STATUS;;
esac
"""


@pytest.mark.parametrize("status", [0, 1])
def test_without_a_terminal_the_set_up_tells_each_stage_and_the_large_packages(tmp_path, status):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.lock").touch()
    (tmp_path / "python").write_text(PIP_STAND_IN)
    (tmp_path / "python").chmod(0o755)
    done = make(tmp_path, "setup", f"PYTHON={tmp_path}/python", STATUS=str(status))
    assert re.sub(r": .*", "", done.stdout).splitlines() == [
        "Set-up, 1 of 3", "Set-up, 2 of 3", "  torch-2.13.0 (532.0 MB)", "  triton-3.7.1 (1.2 GB)", "Set-up, 3 of 3",
        *[".venv is set up."] * (status == 0),
    ]  # fmt: skip
    assert bool(done.returncode) == bool(status) == ("installing the packages failed" in done.stderr)
    assert (tmp_path / ".venv/.ready").exists() == (status == 0)


def test_a_set_up_that_installed_nothing_is_not_called_ready(companion):
    (companion / "requirements.lock").write_text("")
    done = make(companion, "setup")
    assert done.returncode != 0 and "pip did not install the packages" in done.stderr
    assert not (companion / ".venv/.ready").exists()


@pytest.mark.parametrize("target", ["demo", "report", "unlock"])
def test_every_target_is_about_the_experiment_that_is_named(companion, target):
    def commands(*words: str) -> str:
        return make(companion, "--dry-run", target, *words).stdout

    (companion / "config").mkdir()
    (companion / "config" / "mine.yaml").touch()
    assert '--configfile "config/mine.yaml"' in commands("EXPERIMENT=config/mine.yaml")
    assert "--configfile" not in commands()


def test_an_experiment_file_that_is_missing_is_named(companion):
    done = make(companion, "EXPERIMENT=config/mien.yaml")
    assert done.returncode != 0 and "EXPERIMENT=config/mien.yaml: there is no such file" in done.stderr
    done = make(companion, "EXPERIMENT=src")
    assert done.returncode != 0 and "EXPERIMENT=src: this is a folder; name an experiment file in it" in done.stderr
    assert not (companion / ".venv").exists()


def test_help_lists_every_target(companion):
    said = make(companion, "help").stdout
    phony = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith(".PHONY:"))
    for target in set(phony.split()[1:]) - {"demo", "stale"}:
        assert f"\nmake {target} " in said


def test_a_dry_run_is_in_the_help_and_reaches_snakemake(tmp_path):
    stand_in(tmp_path, 'echo "asked: $*"')
    assert "ARGS=-n only lists the steps" in make(tmp_path, "help").stdout
    assert re.search(r"^asked: .* -n$", make(tmp_path, "ARGS=-n").stdout, re.MULTILINE)


def stand_in(folder: Path, script: str) -> None:
    """A folder with the Makefile, set up with a shell script in place of Snakemake."""
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "src").symlink_to(ROOT / "src")
    (folder / "requirements.lock").touch()
    programs = folder / ".venv/bin"
    programs.mkdir(parents=True)
    (programs / "python").symlink_to(sys.executable)
    snakemake = programs / "snakemake"
    snakemake.write_text(f"#!/bin/bash\n{script}\n")
    snakemake.chmod(0o755)
    (folder / ".venv/.ready").write_text(f"{folder}\n")


def test_a_file_that_is_no_yaml_is_told_with_its_line(tmp_path):
    stand_in(tmp_path, "echo it runs")
    mine = tmp_path / "mine.yaml"
    mine.write_text("experiment: mine\ntraining:\n\t- models: [RepVGG-A0]\n")
    done = make(tmp_path, "EXPERIMENT=mine.yaml")
    assert done.returncode != 0 and "it runs" not in done.stdout
    assert "make: mine.yaml is not valid YAML: " in done.stderr and "line 3" in done.stderr
    assert "Traceback" not in done.stderr
    for text in ("", "# nothing yet\n", "- a\n"):
        mine.write_text(text)
        done = make(tmp_path, "EXPERIMENT=mine.yaml")
        assert done.returncode != 0 and "it runs" not in done.stdout
        assert "make: mine.yaml holds no keys; see docs/keys.md" in done.stderr and "Traceback" not in done.stderr
    mine.write_text("experiment: mine\ndata: {}\ndata: {}\n")
    assert (
        "mine.yaml has the key data twice, in line 2 and in line 3; " in make(tmp_path, "EXPERIMENT=mine.yaml").stderr
    )
    mine.write_text("experiment: mine\n")
    assert "it runs" in make(tmp_path, "EXPERIMENT=mine.yaml").stdout


@pytest.mark.skipif(shutil.which("flock") is None, reason="needs flock")
def test_a_second_run_in_the_folder_is_refused(tmp_path):
    stand_in(tmp_path, "echo it runs")
    with (tmp_path / "requirements.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        second = make(tmp_path)
    assert second.returncode != 0 and "another run works in this folder; wait for it" in second.stderr
    assert "it runs" not in second.stdout
    assert "it runs" in make(tmp_path).stdout


def test_a_kill_of_make_reaches_snakemake_and_is_told_as_a_stop(tmp_path):
    stand_in(tmp_path, "trap 'echo it ended; exit 1' TERM\ntouch started\nwhile :; do sleep 0.1; done")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    process = subprocess.Popen(
        ["make", f"PYTHON={sys.executable}"], cwd=tmp_path, env=inherited, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    while process.poll() is None and not (tmp_path / "started").exists():
        time.sleep(0.05)
    process.terminate()
    said, errors = process.communicate(timeout=60)
    assert process.returncode != 0 and "it ended" in said
    assert "make: stopped; type the same command again to continue" in errors and "locked" not in errors


def test_a_kill_of_snakemake_alone_is_told_as_a_stop_too(tmp_path):
    """The summary of the stopped run leaves the word in the file that make names."""
    stand_in(
        tmp_path,
        'echo "$REPVGG_COMPANION_MAKE" >named; [ -e once ] || echo stopped >"$(cat named)"; touch once; exit 1',
    )
    done = make(tmp_path)
    assert done.returncode != 0 and "make: stopped; type the same command again to continue" in done.stderr
    assert "stopped" not in make(tmp_path).stderr, "a failure is no stop"
    assert not Path((tmp_path / "named").read_text().strip()).exists()


def test_ctrl_c_says_stopped_and_how_to_go_on(tmp_path):
    """A stand-in for Snakemake presses Ctrl-C: the signal goes to make, its shell and Snakemake alike."""
    stand_in(tmp_path, "trap 'exit 1' INT\nkill -INT 0\nwhile :; do sleep 0.1; done")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    done = subprocess.run(
        ["make", f"PYTHON={sys.executable}"], cwd=tmp_path, env=inherited, capture_output=True, text=True, check=False,
        start_new_session=True, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0 and "make: stopped; type the same command again to continue" in done.stderr
    assert "locked" not in done.stderr
    assert len(done.stderr.splitlines()) == 1, "the stop is told once"
