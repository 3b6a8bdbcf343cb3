"""The ``gigatile`` command: finds the module of a command, turns every error into a paragraph and a code."""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module

from gigatile.cli.parser import Parser, emit, say
from gigatile.cli.values import nearest
from gigatile.errors import GigatileError, UsageError

COMMANDS = {
    "run": "run a model over an image; the same command again finishes what is missing",
    "plan": "what a run would do, its cost and its memory; the options of run",
    "info": "what an image file says of itself",
    "probe": "how far a model looks, and whether its tiles can equal the whole image",
    "status": "how far the run in a directory is",
    "verify": "whether everything a run wrote is there and unharmed",
    "export": "the result as a file for QuPath, QGIS and other programs",
    "label": "the connected components of a mask of any size, each with its number",
    "pipelines": "the ready-made pipelines",
    "demo": "build a sample slide, run a pipeline over it, and show what came out",
}
LATER = ("view",)
"""Commands of the contract that are not built yet."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the return value is the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    warnings.formatwarning = _one_line
    try:
        return _dispatch(words)
    except GigatileError as error:
        if debug:
            traceback.print_exc()
        say(f"error: {' '.join(str(error).split())}")
        return error.exit_code
    except KeyboardInterrupt:
        say("interrupted; nothing is lost that was written before.")
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader of our stdout left (`| head`); without this the interpreter complains again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        if debug:
            raise
        what = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
        say(f"error: {what}. gigatile did not foresee this: run again with --debug to see where it happened.")
        return 1


def _dispatch(words: Sequence[str]) -> int:
    if not words or words[0].startswith("-"):
        if _top_parser().parse(words).version:
            emit(f"gigatile {_version()}")
            return 0
        raise UsageError("gigatile: no command given", fix=f"The commands are {', '.join(COMMANDS)}.")
    command = words[0]
    if command in LATER:
        raise UsageError(f"gigatile {command} is not available yet", fix=f"The commands are {', '.join(COMMANDS)}.")
    if command not in COMMANDS:
        hint = f"{nearest(command, list(COMMANDS))} The commands are {', '.join(COMMANDS)}."
        raise UsageError(f"gigatile: unknown command {command!r}", fix=hint.strip())
    code: int = import_module(f"gigatile.cli.{command}").main(words[1:])
    return code


def _top_parser() -> Parser:
    commands = "\n".join(f"  {name:<10} {what}" for name, what in COMMANDS.items())
    parser = Parser(
        "gigatile",
        usage="gigatile COMMAND ...",
        description="Run a model over images that do not fit in memory.\n\ncommands:\n" + commands,
        epilog="'gigatile COMMAND --help' tells more. Exit codes: 0 complete, 1 could not go on, 2 usage,\n"
        "3 something failed, 130 after Ctrl-C, 143 after SIGTERM.",
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    return parser


def _version() -> str:
    # From the package itself, not its metadata: a checkout on the path has none.
    return str(import_module("gigatile").__version__)


def _one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning as one line for people: where in our code it was raised helps nobody."""
    return f"gigatile: warning: {' '.join(str(message).split())}\n"


if __name__ == "__main__":
    sys.exit(main())
