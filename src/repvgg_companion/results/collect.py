"""The verb `collect`: join the parts that single jobs wrote into the result tables, checked by the contract."""

import argparse

from repvgg_companion.contract import TABLES, read_rows, write_rows
from repvgg_companion.errors import CompanionError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `collect` verb."""
    parser.add_argument(
        "--table",
        nargs="+",
        action="append",
        required=True,
        metavar=("NAME OUTPUT", "PART"),
        help="a table of the contract, the file to write, and the parts to join; may be repeated",
    )


def collect(table: str, output: str, parts: list[str]) -> int:
    """Join the parts of one table into `output`; returns the number of rows.

    Raises CompanionError naming the part if a row does not fit the contract; nothing is written then.
    """
    rows = [row for part in parts for row in read_rows(part, table)]
    write_rows(output, table, rows)
    return len(rows)


def run(arguments: argparse.Namespace) -> None:
    """Collect every named table."""
    for words in arguments.table:
        if len(words) < 2 or words[0] not in TABLES:
            raise CompanionError(f"--table wants NAME OUTPUT PART…, with NAME one of {', '.join(TABLES)}")
        collect(words[0], words[1], words[2:])
