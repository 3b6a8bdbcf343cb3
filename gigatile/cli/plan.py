"""``gigatile plan``: what a run would do, its cost and its memory; nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gigatile.cli.card_options import tell
from gigatile.cli.options import read_options, run_parser
from gigatile.cli.parser import emit, emit_json

if TYPE_CHECKING:
    from gigatile.plans.build import Executor


def main(argv: Sequence[str]) -> int:
    """Print the plan of the run that the same options would start."""
    parser = run_parser("plan", "What 'gigatile run' with the same options would do; nothing is written.")
    options = read_options(parser, argv)
    tell(options.card)
    from gigatile.cli.request import make_plan

    plan = make_plan(options)
    if options.executor != "threads" or options.workers is not None:
        from gigatile.plans.build import fitted

        # Who does the work decides what --memory is shared by; `run` fits its plan in the same way.
        plan = fitted(plan, _kind(options.executor), options.workers)
    if options.json:
        emit_json(plan.to_json())
    else:
        emit(str(plan))
    return 0


def _kind(executor: str | Path) -> Executor:
    if executor == "threads":
        return "threads"
    return "processes" if executor == "processes" else "cluster"
