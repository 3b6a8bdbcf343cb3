"""``gigatile label``: the connected components of a mask or class map, as an OME-Zarr of labels."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gigatile.cli.parser import Parser, add_debug, emit, say
from gigatile.cli.values import Where, one_of, size
from gigatile.errors import UsageError

if TYPE_CHECKING:
    from gigatile.exports.label import Progress

LINE_SECONDS = 5.0
"""Least time between two lines of progress."""
STAGES = {"join": "joining components", "write": "writing labels", "pyramid": "making the pyramid"}


def main(argv: Sequence[str]) -> int:
    """Label one mask."""
    parser = _parser()
    arguments = parser.parse(argv)
    if arguments.output is None:
        raise UsageError(f"{parser.prog}: no -o given", fix=f"See '{parser.prog} --help'.")
    connectivity = int(one_of("4", "8")(arguments.connectivity, Where("connectivity")))
    memory = None if arguments.memory is None else size(arguments.memory, Where("memory"))
    from gigatile.exports.label import label

    found = label(
        arguments.input,
        arguments.output,
        connectivity=connectivity,
        classes="apart" if arguments.by_class else "joined",
        memory=memory,
        progress=Lines(),
    )
    say(f"{found.count:,} components")
    emit(str(found.path))
    return 0


class Lines:
    """The plan, then a line every few seconds, on stderr."""

    def __init__(self) -> None:
        self._due = time.monotonic() + LINE_SECONDS

    def __call__(self, progress: Progress) -> None:
        """Say it, if the last line is long enough ago."""
        if progress.stage == "plan":
            say(str(progress.plan))
        elif time.monotonic() >= self._due:
            self._due = time.monotonic() + LINE_SECONDS
            say(f"{STAGES[progress.stage]}: {progress.done:,} of {progress.total:,} blocks")


def _parser() -> Parser:
    parser = Parser(
        "gigatile label",
        usage="gigatile label IN.zarr -o OUT.zarr [--connectivity 4|8] [--by-class] [--memory 1GiB]",
        description="Number the connected components of a mask or class map of any size, exactly as\n"
        "scipy.ndimage.label numbers those of the whole image. Pixels that are not 0 are foreground;\n"
        "invalid ones are not. OUT.zarr appears whole at the end; what was interrupted is begun anew.",
    )
    parser.add_argument("input", metavar="IN.zarr", help="a Zarr array, an OME-Zarr image, or a run directory")
    parser.add_argument("-o", dest="output", metavar="OUT.zarr", help="the labels: uint32, with a pyramid")
    parser.add_argument(
        "--connectivity", metavar="4|8", default="4", help="pixels touch at sides, or also at corners (default: 4)"
    )
    parser.add_argument("--by-class", action="store_true", help="a component has pixels of one value only")
    parser.add_argument("--memory", metavar="1GiB", help="peak resident memory (default: half of what there is)")
    add_debug(parser)
    return parser
