"""The command line in odd surroundings: every failure is one sentence, and nothing breaks for want of a setting."""

import ast
import os
import pwd
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from repvgg_companion import __main__
from repvgg_companion.errors import counted
from repvgg_companion.runs import ensure_user_name


def run(*words: str, limit: str = "", **variables: str) -> subprocess.CompletedProcess:
    command = f'{limit} exec "{sys.executable}" -m repvgg_companion "$@"'
    return subprocess.run(
        ["bash", "-c", command, "bash", *words], env=os.environ | variables, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("words", [("weights", "inspect", "größe.pth"), ("status", "--results", "größe"), ("--help",)])
def test_a_terminal_without_the_character_shows_its_number(words, tmp_path):
    done = run(*words, PYTHONIOENCODING="ascii:strict")
    assert "Traceback" not in done.stderr and "UnicodeEncodeError" not in done.stderr
    if words[0] == "weights":
        assert done.returncode == 2 and "gr\\xf6\\xdfe.pth does not exist" in done.stderr


def test_help_starts_with_what_the_program_is_for():
    done = run("--help")
    assert "Reproduce the RepVGG paper step by step" in done.stdout and "thin command line" not in done.stdout


def test_an_unknown_verb_is_told_the_nearest_one(capsys):
    with pytest.raises(SystemExit):
        __main__.main(["trian", "--help"])
    assert "there is no verb 'trian'; did you mean train?" in capsys.readouterr().err


def test_a_number_and_its_noun_agree():
    assert [counted(number, "note") for number in (0, 1, 2)] == ["0 notes", "1 note", "2 notes"]


def test_open_files_are_raised_to_what_the_system_allows():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (48, before[1]))
        __main__._prepare_process()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 48
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(
    "error",
    [
        OSError(24, "Too many open files"),
        RuntimeError("unable to open shared memory object </torch_1_2> in read-write mode: Too many open files (24)"),
    ],
)
def test_too_few_open_files_is_one_sentence(monkeypatch, capsys, error):
    from repvgg_companion.experiment import schema

    def fail(_arguments):
        try:
            raise error
        except Exception as first:
            raise ImportError("torch could not be loaded") from first

    monkeypatch.setattr(schema, "run", fail)
    assert __main__.main(["schema"]) == 2
    assert "files may be open here; allow more with `ulimit -n 4096`" in capsys.readouterr().err


def test_other_errors_of_a_library_keep_their_traceback(monkeypatch):
    from repvgg_companion.experiment import schema

    monkeypatch.setattr(schema, "run", lambda _arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        __main__.main(["schema"])


def test_a_user_without_an_entry_in_passwd_gets_a_name(monkeypatch):
    """As in `docker run -u 1234`; Snakemake and torch.compile ask for a name and fail without one."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)

    def nobody(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    ensure_user_name()
    assert os.environ["USER"] == f"uid-{os.getuid()}"
    monkeypatch.delenv("USER")


HARMFUL = re.compile(
    r"\b(remove|delete|overwrite|replace|erase) (it|them|this|that|those|the (archive|file|folder))\b"
    r"|\b(get|unpack|download) (it|them|\S+) again"
)


def test_no_sentence_asks_to_remove_or_replace_what_is_the_users():
    package = Path(__main__.__file__).parent
    for path in package.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
                assert not HARMFUL.search(node.value), f"{path}, line {node.lineno}: {node.value!r}"
