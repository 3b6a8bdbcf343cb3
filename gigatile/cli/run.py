"""``gigatile run``: plan, run, and say where the result is; of one image or of many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gigatile.cli.card_options import tell
from gigatile.cli.inputs import options_of, read_inputs
from gigatile.cli.options import RunOptions, read_options, run_parser
from gigatile.cli.parser import emit, say
from gigatile.errors import Cancelled, RunRefused, UsageError

if TYPE_CHECKING:
    from threading import Event

    from gigatile.cohorts.inputs import InputEntry, Inputs
    from gigatile.events import OnEvent
    from gigatile.plans.plan import Plan
    from gigatile.runs.runner import Result

SOMETHING_FAILED = 3
T = TypeVar("T")


def main(argv: Sequence[str]) -> int:
    """Run a model over images; the same command again finishes what is missing."""
    parser = run_parser("run", "Run a model over images. The same command again finishes what is missing.")
    options = read_options(parser, argv)
    tell(options.card)
    place = options.output_dir
    if place is None:
        raise UsageError("gigatile run", expected="-o DIR, where the result goes", found="none")
    if "://" not in place and Path(place).exists() and not Path(place).is_dir():
        raise RunRefused(f"-o {place}", expected="a directory, or a new one", found="a file")
    inputs = read_inputs(options.images, options.inputs, _known(place))
    for note in inputs.notes:
        say(note)
    if not inputs.is_cohort:
        return _run_one(replace(options, image=inputs.entries[0].image), place)
    return _run_many(options, inputs, place)


def _known(place: str) -> Sequence[Any]:
    """The images that a cohort's directory has already, by whose names new ones are told apart."""
    from gigatile.cohorts.summary import Summary
    from gigatile.storage.open import open_store

    store = open_store(place)
    return Summary.open(store).known if store.size("summary.json") is not None else ()


def _run_one(options: RunOptions, place: str) -> int:
    from gigatile.cli.request import make_plan

    plan = make_plan(options)
    from gigatile.runs.runner import run

    def carry_out(on_event: OnEvent, stop: Event) -> Result:
        return run(
            plan,
            place,
            executor=options.executor,
            workers=options.workers,
            existing=options.existing,
            durable=options.durable,
            on_event=on_event,
            stop=stop,
        )

    result, code = _watched(carry_out, options, place)
    if result is None:
        return code
    root = place.rstrip("/")
    if options.task != "detect":
        emit(f"prediction  {root}/prediction.zarr")
    if options.task != "segment" and result.complete:
        emit(f"objects     {root}/objects.parquet")
    emit(f"run         {root}/run.json")
    emit(str(result.status))
    return 0 if result.complete else SOMETHING_FAILED


def _run_many(options: RunOptions, inputs: Inputs, place: str) -> int:
    from gigatile.cli.request import make_plan, read_model
    from gigatile.cohorts.run import CohortResult, run_cohort
    from gigatile.machine import available_bytes

    # Once for all of them; and a model that cannot be loaded is no fault of the images.
    model = read_model(options)

    def plan_one(entry: InputEntry) -> Plan:
        return make_plan(options_of(options, entry), model)

    def carry_out(on_event: OnEvent, stop: Event) -> CohortResult:
        return run_cohort(
            inputs.entries,
            plan_one,
            place,
            executor=options.executor,
            workers=options.workers,
            existing=options.existing,
            durable=options.durable,
            on_event=on_event,
            stop=stop,
            budget_bytes=options.memory or available_bytes() // 2,
        )

    result, code = _watched(carry_out, options, place)
    if result is None:
        return code
    emit(f"summary     {place.rstrip('/')}/summary.csv\nimages      {place.rstrip('/')}/NAME/prediction.zarr")
    emit(f"{result.complete} of {len(inputs.entries)} images complete, {result.failed} not")
    return SOMETHING_FAILED if result.failed else 0


def _watched(carry_out: Callable[[OnEvent, Event], T], options: RunOptions, place: str) -> tuple[T | None, int]:
    """Carry out a run under a display, stopping at signals; its result, or None and the exit code."""
    from gigatile.cli.progress import open_display
    from gigatile.cli.signals import stop_on_signals

    with open_display(options.progress) as display, stop_on_signals(display.notice) as stopper:
        try:
            result = carry_out(display, stopper.event)
        except Cancelled:
            if stopper.exit_code is None:
                raise
            result = None
    if result is None or stopper.exit_code is not None:
        say(f"stopped; {place} can be resumed by the same command.")
        return None, stopper.exit_code or Cancelled.exit_code
    return result, 0
