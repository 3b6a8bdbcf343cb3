"""``gigatile status``: how far the run in a directory is, or the cohort."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gigatile.cli.inputs import check_run_directory
from gigatile.cli.parser import emit, emit_json
from gigatile.cli.verify import directory_parser

if TYPE_CHECKING:
    from gigatile.cohorts.status import CohortStatus
    from gigatile.runs.status import Status


def main(argv: Sequence[str]) -> int:
    """Print the state of a run or of a cohort; reads ledgers and changes nothing."""
    arguments = directory_parser("status", "How far the run, or the cohort, in DIR is.").parse(argv)
    state = _state(arguments.directory)
    if arguments.json:
        emit_json(state.to_json())
    else:
        emit(str(state))
    return 0


def _state(directory: str) -> Status | CohortStatus:
    if check_run_directory(directory) == "run":
        from gigatile.runs.status import status

        return status(directory)
    from gigatile.cohorts.status import cohort_status
    from gigatile.storage.open import open_store

    return cohort_status(open_store(directory, durable=False))
