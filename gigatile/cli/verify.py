"""``gigatile verify``: whether everything a run wrote is there and unharmed."""

from __future__ import annotations

from collections.abc import Sequence

from gigatile.cli.inputs import check_run_directory
from gigatile.cli.parser import Parser, add_debug, emit, emit_json

DAMAGED = 3


def directory_parser(command: str, description: str) -> Parser:
    """The parser of the commands that look at one run directory."""
    parser = Parser(f"gigatile {command}", description=description)
    parser.add_argument("directory", metavar="DIR", help="the directory of a run")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_debug(parser)
    return parser


def main(argv: Sequence[str]) -> int:
    """Check records, shards and digests; 3 when something is wrong."""
    arguments = directory_parser("verify", "Whether everything the run in DIR wrote is there and unharmed.").parse(argv)
    check_run_directory(arguments.directory)
    from gigatile.runs.verify import verify

    report = verify(arguments.directory)
    if arguments.json:
        emit_json(report.to_json())
    else:
        emit(str(report))
    return DAMAGED if report.problems else 0
