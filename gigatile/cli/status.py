"""``gigatile status``: how far the run in a directory is."""

from __future__ import annotations

from collections.abc import Sequence

from gigatile.cli.inputs import check_run_directory
from gigatile.cli.parser import emit, emit_json
from gigatile.cli.verify import directory_parser


def main(argv: Sequence[str]) -> int:
    """Print the state of a run; reads the ledger and changes nothing."""
    arguments = directory_parser("status", "How far the run in DIR is.").parse(argv)
    check_run_directory(arguments.directory)
    from gigatile.runs.status import status

    state = status(arguments.directory)
    if arguments.json:
        emit_json(state.to_json())
    else:
        emit(str(state))
    return 0
