"""``gigatile run``: plan, run, and say where the result is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gigatile.cli.options import RunOptions, read_options, run_parser
from gigatile.cli.parser import emit, say
from gigatile.errors import Cancelled, RunRefused, UsageError

SOMETHING_FAILED = 3


def main(argv: Sequence[str]) -> int:
    """Run a model over an image; the same command again finishes what is missing."""
    parser = run_parser("run", "Run a model over an image. The same command again finishes what is missing.")
    options = read_options(parser, argv)
    if options.output_dir is None:
        raise UsageError("gigatile run", expected="-o DIR, where the result goes", found="none")
    if Path(options.output_dir).exists() and not Path(options.output_dir).is_dir():
        raise RunRefused(f"-o {options.output_dir}", expected="a directory, or a new one", found="a file")
    return _run(options, options.output_dir)


def _run(options: RunOptions, directory: str) -> int:
    from gigatile.cli.progress import open_display
    from gigatile.cli.request import make_plan
    from gigatile.cli.signals import stop_on_signals

    plan = make_plan(options)
    from gigatile.runs.runner import run

    with open_display(options.progress) as display, stop_on_signals(display.notice) as stopper:
        try:
            result = run(
                plan,
                directory,
                executor=options.executor,
                workers=options.workers,
                existing=options.existing,
                durable=options.durable,
                on_event=display,
                stop=stopper.event,
            )
        except Cancelled:
            if stopper.exit_code is None:
                raise
            result = None
    if result is None or stopper.exit_code is not None:
        say(f"stopped; {directory} can be resumed by the same command.")
        return stopper.exit_code or Cancelled.exit_code
    emit(f"prediction  {Path(directory) / 'prediction.zarr'}\nrun         {Path(directory) / 'run.json'}")
    emit(str(result.status))
    return 0 if result.complete else SOMETHING_FAILED
