"""``gigatile demo``: make a sample slide, run the ready-made pipeline over it, draw what came out.

The run itself is the command that a user would type; it is printed, and typing it again finds nothing to do.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gigatile.cli.parser import Parser, add_debug, emit, say
from gigatile.cli.values import Where, whole
from gigatile.errors import UsageError
from gigatile.machine import available_cores
from gigatile.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from gigatile.cli.demo_overlay import Legend

PIPELINE = "he-nuclei"
MEMORY = "1GiB"
"""Of the run: little enough to show that it keeps to it."""


def main(argv: Sequence[str]) -> int:
    """Make the slide, run, draw, report; what is there already is not done again."""
    options = _parser().parse(argv)
    _check_extra()
    from gigatile.cli.demo_slide import SIDE_PX, TILE_PX

    side = SIDE_PX if options.side is None else whole(least=TILE_PX, example=4096)(options.side, Where("side"))
    if side % TILE_PX:
        raise UsageError("--side", expected=f"a multiple of {TILE_PX}", found=str(side), fix="Type 4096, say.")
    folder = Path(options.output_dir)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"-o {folder}", expected="a directory, or a new one", found="a file")
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    slide, result, picture = (
        folder / name for name in (f"slide-{side}.ome.tif", f"result-{side}", f"overlay-{side}.png")
    )
    _make_slide(slide, side)
    blocks_before = _blocks_finished(result)
    code, seconds = _run(slide, result, options.progress)
    if code != 0:
        return code
    shares = _draw(slide, result, picture)
    emit("\n".join([*_report(result, picture, shares), _speed(result, seconds, blocks_before)]))
    say(f"done in {format_seconds(time.monotonic() - started)}.")
    return 0


def _parser() -> Parser:
    parser = Parser(
        "gigatile demo",
        description="Make a slide of 205 megapixels from a real tissue picture, find its nuclei, draw the result.\n"
        "Nothing is downloaded. What is there already is not done again.",
    )
    parser.add_argument(
        "-o", dest="output_dir", metavar="DIR", default="demo-output", help="where it goes (default: demo-output)"
    )
    parser.add_argument("--side", metavar="N", help="height and width of the slide (default: 14336)")
    parser.add_argument(
        "--progress", choices=("auto", "rich", "json", "none"), default="auto", help="as in 'gigatile run'"
    )
    add_debug(parser)
    return parser


def _check_extra() -> None:
    """Name the extra before a minute of work ends in an ImportError."""
    from importlib.util import find_spec

    missing = [name for name in ("skimage", "scipy", "PIL", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise UsageError(
            "gigatile demo",
            expected="the packages of the demo extra",
            found=f"no {', '.join(missing)}",
            fix="Type: pip install 'gigatile[demo]'.",
        )


def _make_slide(slide: Path, side: int) -> None:
    if slide.exists():
        say(f"the sample slide is there: {slide}")
        return
    from gigatile.cli.demo_slide import TILE_PX, write_slide

    say(
        f"making a sample slide of {side} x {side} px ({side * side / 1e6:.1f} megapixels): a mosaic of "
        "scikit-image's immunohistochemistry picture, real tissue on made-up outlines"
    )
    started = time.monotonic()
    write_slide(slide, side_px=side, on_tile=_count_to((side // TILE_PX) ** 2))
    seconds = time.monotonic() - started
    say(f"made {slide} in {format_seconds(seconds)}, {format_bytes(slide.stat().st_size)}")


def _count_to(total: int) -> Callable[[], None]:
    """A callback that says each quarter of `total` calls; called from several threads, so a line may be late."""
    done: list[None] = []

    def count() -> None:
        done.append(None)
        reached = len(done)
        if total >= 64 and reached % (total // 4) == 0 and reached < total:
            say(f"  {100 * reached // total} % of the slide")

    return count


def _run(slide: Path, result: Path, progress: str) -> tuple[int, float]:
    """The run as a user would type it: its exit code, and its seconds with planning and pyramid."""
    from gigatile.cli import run

    words = [str(slide), "--pipeline", PIPELINE, "--memory", MEMORY, "-o", str(result)]
    say(f"running: gigatile run {shlex.join(words)}")
    started = time.monotonic()
    code = run.main([*words, "--progress", progress])
    return code, time.monotonic() - started


def _legend() -> Legend:
    from gigatile.cli.demo_overlay import Legend
    from gigatile.cli.pipeline_file import find_pipeline, load_pipeline

    pipeline = load_pipeline(find_pipeline(PIPELINE))
    return Legend(tuple(pipeline.given["class_names"].text.split(",")), pipeline.class_colors)


def _draw(slide: Path, result: Path, picture: Path) -> dict[str, float]:
    from gigatile.cli.demo_overlay import draw_overlay
    from gigatile.images.open import open as open_image

    return draw_overlay(open_image(str(slide)), result / "prediction.zarr", _legend(), picture)


def _blocks_finished(result: Path) -> int:
    """Blocks of the prediction that an earlier demo finished."""
    from gigatile.runs.status import status

    if not (result / "run.json").exists():
        return 0
    state = status(result)
    return state.done + state.empty


def _report(result: Path, picture: Path, shares: dict[str, float]) -> list[str]:
    """Where things are, and what the run directory says of the work."""
    from gigatile.runs.status import status

    state, facts = status(result), json.loads((result / "run.json").read_text())
    budget = facts["summary"]["memory"]["budget_bytes"]
    classes = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    return [
        f"overlay     {picture}",
        f"classes     {classes}",
        f"check it    gigatile verify {shlex.quote(str(result))}",
        f"measured    {state.tiles_inferred} tiles inferred, overcompute {state.overcompute:.2f}; "
        f"each source chunk decoded {state.decoded_ratio:.2f} times",
        f"            peak memory {format_bytes(state.peak_rss_bytes)} of {format_bytes(budget)} allowed",
    ]


def _speed(result: Path, seconds: float, blocks_before: int) -> str:
    """Pixels a second; only of a run that did all its blocks this time."""
    facts = json.loads((result / "run.json").read_text())
    blocks = facts["layout"]["blocks"]
    if blocks_before:
        return f"            {blocks_before} of {blocks} blocks were there already, so no speed is given"
    height, width = facts["plan"]["image"]["shape"]
    megapixels = height * width / 1e6
    return (
        f"            {megapixels:.1f} Mpx in {format_seconds(seconds)} with planning and pyramid: "
        f"{megapixels / seconds:.1f} Mpx/s on {available_cores()} cores"
    )
