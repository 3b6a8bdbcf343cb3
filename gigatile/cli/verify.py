"""``gigatile verify``: whether everything a run, or a cohort, wrote is there and unharmed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gigatile.cli.inputs import check_run_directory
from gigatile.cli.parser import Parser, add_debug, emit, emit_json

if TYPE_CHECKING:
    from gigatile.cohorts.status import CohortReport
    from gigatile.runs.verify import Report

DAMAGED = 3


def directory_parser(command: str, description: str) -> Parser:
    """The parser of the commands that look at the directory of a run or a cohort."""
    parser = Parser(f"gigatile {command}", description=description)
    parser.add_argument("directory", metavar="DIR", help="what was given to 'gigatile run -o'")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_debug(parser)
    return parser


def main(argv: Sequence[str]) -> int:
    """Check records, shards and digests; 3 when something is wrong."""
    about = "Whether everything the run, or the cohort, in DIR wrote is there and unharmed."
    arguments = directory_parser("verify", about).parse(argv)
    report = _report(arguments.directory)
    if arguments.json:
        emit_json(report.to_json())
    else:
        emit(str(report))
    return DAMAGED if report.count else 0


def _report(directory: str) -> Report | CohortReport:
    if check_run_directory(directory) == "run":
        from gigatile.runs.verify import verify

        return verify(directory)
    from gigatile.cohorts.status import cohort_verify
    from gigatile.storage.open import open_store

    return cohort_verify(open_store(directory))
