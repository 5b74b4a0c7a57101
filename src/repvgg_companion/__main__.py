"""The command line: `python -m repvgg_companion VERB ...`.

Each verb has a module of its name with `add_arguments(parser)` and `run(arguments) -> int | None`. Only the module of
the verb that is called is imported, so a verb without torch starts in half a second.
"""

import argparse
import contextlib
import errno
import faulthandler
import importlib
import io
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from repvgg_companion.errors import SYSTEM_ADVICE, CompanionError, Interrupted, did_you_mean, one_line
from repvgg_companion.files import OPEN_FILES
from repvgg_companion.runs import ensure_user_name

DESCRIPTION = "Reproduce the RepVGG paper step by step: index images, train, convert, evaluate, measure, compare."

VERBS: dict[str, tuple[str, str]] = {
    "make-demo-data": ("data.make_demo_data", "write the handwritten digits in the ILSVRC2012 archive layout"),
    "index": ("data.index.index", "write the manifests of a dataset without extracting it"),
    "verify": ("data.index.verify", "compare archives with their published digests"),
    "pack": ("data.index.pack", "write a packed copy of a dataset for throughput-first training"),
    "cache": ("data.batches.cache", "decode a validation set once for all evaluations"),
    "train": ("training.train", "train one model by a recipe, or continue it"),
    "status": ("training.job.status", "show the state of every training"),
    "reparameterize": ("reparameterization.reparameterize", "convert train files to deploy files and certify them"),
    "evaluate": ("evaluation.evaluate", "top-1 and top-5 of both forms"),
    "evaluate-segmentation": ("evaluation.evaluate_segmentation", "mean IoU and pixel accuracy of both forms"),
    "count-complexity": ("complexity.count_complexity", "parameters, FLOPs and Wino MULs"),
    "measure-device": ("speed.measure_device", "measure this machine within a given number of minutes"),
    "measure-speed": ("speed.measure_speed", "examples per second of both forms and the baselines"),
    "measure-kernel-sizes": ("speed.measure_kernel_sizes", "Table 1: speed of convolutions by kernel size"),
    "measure-memory": ("speed.measure_memory", "Figure 3: memory of feature maps and of whole models"),
    "check-devices": ("speed.check_devices", "check contributed measurements of other machines"),
    "check-studies": ("evidence.check_studies", "check the small studies, or add one from a finished experiment"),
    "export": ("speed.export", "export a deploy file as ONNX or torch.export, and check the exported graph"),
    "collect": ("results.collect", "join parts into the result tables and check them against the contract"),
    "cards": ("results.cards", "a model card and config.json beside each set of weights"),
    "tables": ("paper.tables", "the paper's tables beside ours"),
    "figures": ("paper.figures", "the paper's figures beside ours"),
    "claims": ("paper.claims", "the verdicts on the paper's claims"),
    "provenance": ("results.provenance", "what the results of an experiment rest on"),
    "report": ("results.report", "one HTML page of an experiment"),
    "dictionary": ("evidence.dictionary", "every column of the result tables with its unit and meaning"),
    "crate": ("evidence.crate", "an experiment, or the ledger, as a Workflow Run RO-Crate"),
    "why": ("evidence.why", "which rows, weights, images and sources a number rests on"),
    "ledger": ("evidence.ledger", "every claim of the paper with all the evidence there is"),
    "compare": ("evidence.compare", "two experiments or devices side by side"),
    "plan": ("experiment.plan", "what the trainings of an experiment will cost, before anything is spent"),
    "jobs": ("experiment.jobs", "write the commands of an experiment as a script for a machine without Snakemake"),
    "adopt": ("experiment.adopt", "take states, weights and rows back from another machine"),
    "pod": ("experiment.pod", "run one job of the workflow on Kubernetes; its profile calls this"),
    "doctor": ("experiment.doctor", "what can run here, what cannot, and what to do about it"),
    "schema": ("experiment.schema", "write the JSON schema of experiment files"),
    "summary": ("results.summary", "say where the results of an experiment are"),
    "weights": ("weights.weights", "inspect, convert or fetch weights files"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns its exit status (0 done, 2 user error, 75 interrupted with the state saved)."""
    argv = sys.argv[1:] if argv is None else argv
    _prepare_process()
    arguments, module = _parse(argv)
    try:
        if arguments.log:
            sys.stderr = _Log(arguments.log)
            faulthandler.enable(file=sys.stderr.file)  # shows where a library crashed the process
        return module.run(arguments) or 0
    except Interrupted as error:
        print(f"{arguments.verb}: {one_line(error)}", file=sys.stderr)
        return 75
    except CompanionError as error:
        return _user_error(arguments.verb, one_line(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        print(f"{arguments.verb}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if _out_of_files(error):
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            return _user_error(arguments.verb, f"only {limit} files may be open here; allow more with `ulimit -n 4096`")
        if not isinstance(error, OSError):
            raise
        where = f"{error.filename}: " if error.filename else ""
        return _user_error(arguments.verb, f"{where}{error.strerror or error}; {SYSTEM_ADVICE}")


def _parse(argv: list[str]) -> tuple[argparse.Namespace, Any]:
    """The arguments of one verb, and its module: the only one that is imported."""
    parser = argparse.ArgumentParser(prog="python -m repvgg_companion", description=DESCRIPTION)
    commands = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    chosen = next((word for word in argv if not word.startswith("-")), None)
    module = None
    for verb, (name, summary) in VERBS.items():
        command = commands.add_parser(verb, help=summary, description=summary)
        if verb == chosen:
            module = importlib.import_module(f"repvgg_companion.{name}")
            module.add_arguments(command)
            command.add_argument("--log", help="also write what goes to standard error into this file")
    if chosen is not None and module is None:
        parser.error(f"there is no verb {chosen!r}; {did_you_mean(chosen, VERBS, 'the verbs are')}")
    return parser.parse_args(argv), module


def _prepare_process() -> None:
    """Set up what the environment may lack: output of any character, enough open files, a user name."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < OPEN_FILES and (hard == resource.RLIM_INFINITY or hard > soft):
        most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    ensure_user_name()


def _user_error(verb: str, sentence: str) -> int:
    print(f"{verb}: error: {sentence}", file=sys.stderr)
    return 2


def _out_of_files(error: BaseException | None) -> bool:
    """Whether an error or one of its causes is "too many open files"; torch hides the error number."""
    while error is not None:
        if getattr(error, "errno", None) == errno.EMFILE or os.strerror(errno.EMFILE) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


class _Log:
    """Standard error that is also kept in a file; a closed terminal must not end a training."""

    def __init__(self, path: str) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self.file = Path(path).open("w", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115
        self._terminal = sys.stderr

    def write(self, text: str) -> int:
        self.file.write(text)
        with contextlib.suppress(OSError, ValueError):
            self._terminal.write(text)
        return len(text)

    def flush(self) -> None:
        self.file.flush()
        with contextlib.suppress(OSError, ValueError):
            self._terminal.flush()

    def isatty(self) -> bool:
        """Several jobs share the terminal, so progress comes as lines."""
        return False

    def fileno(self) -> int:
        return self._terminal.fileno()


if __name__ == "__main__":
    sys.exit(main())
