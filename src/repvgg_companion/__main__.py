"""The thin command line: `python -m repvgg_companion VERB …`; each verb lives in the module that does the work.

A verb's module defines `add_arguments(parser)` and `run(arguments) -> int | None`. It is imported only when its verb is
called, so that a job without torch starts in half a second.
"""

import argparse
import contextlib
import faulthandler
import importlib
import os
import signal
import sys
from pathlib import Path

from repvgg_companion.errors import CompanionError, Interrupted, one_line

VERBS: dict[str, tuple[str, str]] = {
    "make-demo-data": ("data.make_demo_data", "write the handwritten digits in the ILSVRC2012 archive layout"),
    "index": ("data.index.index", "write the manifests of a dataset without extracting it"),
    "verify": ("data.index.verify", "compare archives with their published digests"),
    "pack": ("data.index.pack", "write a packed copy of a dataset for throughput-first training"),
    "cache": ("data.batches.cache", "decode a validation set once for all evaluations"),
    "train": ("training.train", "train one model by a recipe, or continue it"),
    "status": ("training.job.status", "how every training stands"),
    "reparameterize": ("reparameterization.reparameterize", "convert train files to deploy files and certify them"),
    "evaluate": ("evaluation.evaluate", "top-1 and top-5 of both forms"),
    "evaluate-segmentation": ("evaluation.evaluate_segmentation", "mean IoU and pixel accuracy of both forms"),
    "count-complexity": ("complexity.count_complexity", "parameters, FLOPs and Wino MULs"),
    "measure-speed": ("speed.measure_speed", "examples per second of both forms and the baselines"),
    "measure-kernel-sizes": ("speed.measure_kernel_sizes", "Table 1: speed of convolutions by kernel size"),
    "measure-memory": ("speed.measure_memory", "Figure 3: memory of feature maps and of whole models"),
    "check-devices": ("speed.check_devices", "check contributed measurements of other machines"),
    "export": ("speed.export", "export a deploy file as ONNX or torch.export, and check the exported graph"),
    "collect": ("results.collect", "join parts into the result tables and check them against the contract"),
    "tables": ("paper.tables", "the paper's tables beside ours"),
    "figures": ("paper.figures", "the paper's figures beside ours"),
    "claims": ("paper.claims", "the verdicts on the paper's claims"),
    "provenance": ("results.provenance", "what the results of an experiment rest on"),
    "report": ("results.report", "one HTML page of an experiment"),
    "dictionary": ("evidence.dictionary", "every column of the result tables with its unit and meaning"),
    "crate": ("evidence.crate", "an experiment, or the ledger, as a Workflow Run RO-Crate"),
    "why": ("evidence.why", "which rows, weights, images and sources a number rests on"),
    "compare": ("evidence.compare", "two experiments or devices side by side"),
    "plan": ("experiment.plan", "what the trainings of an experiment will cost, before anything is spent"),
    "jobs": ("experiment.jobs", "write the commands of an experiment as a script for a machine without Snakemake"),
    "adopt": ("experiment.adopt", "take states, weights and rows back from another machine"),
    "pod": ("experiment.pod", "run one job of the workflow on Kubernetes; its profile calls this"),
    "schema": ("experiment.schema", "write the JSON schema of experiment files"),
    "summary": ("results.summary", "say where the results of an experiment are"),
    "weights": ("weights.weights", "inspect, convert or fetch weights files"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns its exit status (0 done, 2 a mendable mistake, 75 interrupted with the state saved)."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="python -m repvgg_companion", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    chosen = next((word for word in argv if not word.startswith("-")), None)
    modules = {}
    for verb, (module_name, summary) in VERBS.items():
        command = commands.add_parser(verb, help=summary, description=summary)
        if verb == chosen:
            modules[verb] = importlib.import_module(f"repvgg_companion.{module_name}")
            modules[verb].add_arguments(command)
            command.add_argument("--log", help="also write what goes to standard error into this file")
    arguments = parser.parse_args(argv)
    try:
        if getattr(arguments, "log", None):
            sys.stderr = _Log(arguments.log)
            faulthandler.enable(file=sys.stderr.file)  # a process that a library crashes still says where
        return modules[arguments.verb].run(arguments) or 0
    except Interrupted as error:
        print(f"{arguments.verb}: {one_line(error)}", file=sys.stderr)
        return 75
    except CompanionError as error:
        print(f"{arguments.verb}: error: {one_line(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        print(f"{arguments.verb}: error:{where}: {error.strerror or error}; mend that and run again", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{arguments.verb}: interrupted", file=sys.stderr)
        return 130


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
