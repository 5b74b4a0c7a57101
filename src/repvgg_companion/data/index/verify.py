"""The `verify` verb: compares archives with their published MD5s and records what it computed."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from repvgg_companion.data.index.digests import DigestRecord, expected_md5, md5_of, require_match
from repvgg_companion.errors import CompanionError
from repvgg_companion.progress import Progress

MEGABYTE = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `verify` verb."""
    parser.add_argument("--archives", nargs="+", required=True, metavar="FILE")
    parser.add_argument("--output", required=True, help="JSON record of digests, read first and added to")


def run(arguments: argparse.Namespace) -> None:
    """Compare each archive with its published MD5; raises CompanionError at the first that differs."""
    record = DigestRecord(arguments.output)
    for archive in arguments.archives:
        expected = expected_md5(archive)
        if expected is None:
            raise CompanionError(
                f"no digest is published for a file called {Path(archive).name}; put MD5SUMS beside it, or leave it out"
            )
        md5 = record.known(archive)
        known = ""
        if md5 is None:
            md5, stamp = md5_with_progress(archive)
            record.keep(archive, md5, stamp)
        else:
            known = " (known, file unchanged)"
        require_match(archive, md5, expected)
        print(f"{archive}: MD5 {md5} as published{known}")


def md5_with_progress(archive: str) -> tuple[str, tuple[int, int]]:
    """The MD5 of a file and its (size, modification time in ns), with progress in MB and MB/s."""
    path = Path(archive)
    if not path.is_file():
        raise CompanionError(f"{archive} does not exist")
    with ByteProgress(f"MD5 of {path.name}", path.stat().st_size) as advance:
        return md5_of(archive, advance)


class ByteProgress:
    """Progress in whole megabytes from counts in bytes; entering it gives the function that counts."""

    def __init__(self, title: str, size: int) -> None:
        self._bytes = 0
        self._progress = Progress(title, total=-(-size // MEGABYTE), unit="MB")

    def __enter__(self) -> Callable[[int], None]:
        self._progress.__enter__()
        return self._advance

    def __exit__(self, *error: Any) -> None:
        self._progress.__exit__(*error)

    def _advance(self, count: int) -> None:
        self._bytes += count
        self._progress.advance(-(-self._bytes // MEGABYTE) - self._progress.done)
