"""argparse with our manners: one paragraph instead of a usage dump, no abbreviations, near misses named."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from gigatile.cli.values import nearest
from gigatile.errors import UsageError

HELP_WIDTH = 104


class Formatter(argparse.HelpFormatter):
    """Help in one line an option where the terminal allows it; the description keeps its line breaks."""

    def __init__(self, prog: str) -> None:
        from shutil import get_terminal_size

        super().__init__(prog, max_help_position=36, width=min(get_terminal_size().columns, HELP_WIDTH))

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line for line in text.splitlines())


class Parser(argparse.ArgumentParser):
    """Parser of one command; every mistake becomes a `UsageError`."""

    def __init__(self, prog: str, *, description: str, usage: str | None = None, epilog: str = "") -> None:
        super().__init__(
            prog=prog,
            usage=usage,
            description=description,
            epilog=epilog or None,
            formatter_class=Formatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Replace argparse's usage dump."""
        where = message.removeprefix("argument ")
        raise UsageError(f"{self.prog}: {where}", fix=f"See '{self.prog} --help'.")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse the words after the command; options and positionals may come in any order.

        Raises
        ------
        UsageError
            An unknown option, a missing value, or a word too many.
        """
        flags = {flag for action in self._actions for flag in action.option_strings}
        takes_value = {flag for action in self._actions if action.nargs != 0 for flag in action.option_strings}
        namespace, extra = self.parse_known_intermixed_args(_glued(argv, takes_value))
        unknown = next((word for word in extra if word.startswith("-")), None)
        if unknown is not None:
            flag = unknown.partition("=")[0]
            hint = nearest(flag, sorted(flags))
            see = f"See '{self.prog} --help' for the options there are."
            raise UsageError(f"{self.prog}: unknown option {flag}", fix=f"{hint} {see}".strip())
        if extra:
            raise UsageError(f"{self.prog}: one word too many, {extra[0]!r}", fix=f"See '{self.prog} --help'.")
        return namespace


def _glued(argv: Sequence[str], takes_value: set[str]) -> list[str]:
    """``--mean -1,2`` as ``--mean=-1,2``: argparse would take ``-1,2`` for an option."""
    words: list[str] = []
    for word in argv:
        number_like = len(word) > 1 and word[0] == "-" and (word[1].isdigit() or word[1] == ".")
        if number_like and words and words[-1].startswith("--") and words[-1] in takes_value:
            words[-1] += f"={word}"
        else:
            words.append(word)
    return words


def add_debug(parser: Parser) -> None:
    """The one option that every command has."""
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def say(text: str) -> None:
    """One message for people, on stderr: stdout carries results."""
    sys.stderr.write(f"gigatile: {text}\n")
    sys.stderr.flush()


def emit(text: str) -> None:
    """A result, on stdout."""
    sys.stdout.write(text.rstrip("\n") + "\n")
    sys.stdout.flush()


def emit_json(value: object) -> None:
    """A result as JSON on stdout; NaN and infinities must have been put into words before."""
    import json

    emit(json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False))
