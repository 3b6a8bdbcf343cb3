"""``gigatile plan``: what a run would do, its cost and its memory; nothing is written."""

from __future__ import annotations

from collections.abc import Sequence

from gigatile.cli.options import read_options, run_parser
from gigatile.cli.parser import emit, emit_json


def main(argv: Sequence[str]) -> int:
    """Print the plan of the run that the same options would start."""
    parser = run_parser("plan", "What 'gigatile run' with the same options would do; nothing is written.")
    options = read_options(parser, argv)
    from gigatile.cli.request import make_plan

    plan = make_plan(options)
    if options.json:
        emit_json(plan.to_json())
    else:
        emit(str(plan))
    return 0
