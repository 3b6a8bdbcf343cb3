"""What happens to one damaged image, in a process of its own kind: it is opened, and read here and there."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

READ_UNIT_BYTES = 256 << 20
"""Levels whose decode units are larger are not read: a plan of 2 GiB would refuse them."""
WINDOW_PX = 64


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended."""

    kind: str
    """`ok`, `error` (a clear one), or `FAIL`."""
    text: str


def serve(pipe: Connection, memory_bytes: int) -> None:
    """Answer paths with outcomes until the other end closes.

    Parameters
    ----------
    memory_bytes : int
        What one image may take beyond what the process has when it starts.
    """
    base = _virtual_bytes()
    resource.setrlimit(resource.RLIMIT_AS, (base + memory_bytes, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)  # C libraries print there
        while True:
            try:
                path = pipe.recv()
            except EOFError:
                return
            outcome = outcome_of(path)
            said.seek(0)
            text = said.read().decode(errors="replace")
            said.truncate(0)
            if "Traceback" in text:
                outcome = Outcome("FAIL", f"prints a traceback: {text[-300:]}")
            pipe.send(outcome)


def _virtual_bytes() -> int:
    """Address space of this process, in which RLIMIT_AS counts."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 1 << 20
    return pages * os.sysconf("SC_PAGE_SIZE")


def outcome_of(path: str) -> Outcome:
    """Open and read; every exception but a clear one of ours is a failure."""
    from gigatile.errors import GigatileError

    try:
        return Outcome("ok", _read(path))
    except GigatileError as error:
        return _judged(path, error)
    except BaseException as error:  # noqa: BLE001 - what else comes is what is looked for
        return Outcome("FAIL", f"{type(error).__name__}: {error}"[:300])


def _judged(path: str, error: Exception) -> Outcome:
    """An error of ours is clear if it names the file, the place and what is wrong, and is no shortage of memory."""
    from gigatile.errors import BlockError

    text = str(error)
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    if any(isinstance(c, MemoryError) for c in causes) or "Unable to allocate" in text:
        return Outcome("FAIL", f"out of memory: {text[:300]}")
    if path not in text or not text.removeprefix(path).strip(" :.,"):
        return Outcome("FAIL", f"does not name the file or what is wrong: {text[:300]}")
    if isinstance(error, BlockError) and "level" not in text:
        return Outcome("FAIL", f"does not name the place: {text[:300]}")
    if "\n" in text or "\0" in text or len(text) > 2000:
        return Outcome("FAIL", f"is no one paragraph: {text[:300]!r}")
    return Outcome("error", text)


def _read(path: str) -> str:
    """What `info` says, and windows in the corners, in the middle and over the edge of every level."""
    import json

    from gigatile.cli.info import describe, table
    from gigatile.images.open import open as open_image
    from gigatile.tiling.region import Region

    image = open_image(path)
    json.dumps(describe(image), allow_nan=False)
    table(image).encode()
    image.source.identity()
    skipped = 0
    for number, level in enumerate(image.levels):
        if image.unit_bytes(number) > READ_UNIT_BYTES:
            skipped += 1
            continue
        (height, width), side = level.shape, WINDOW_PX
        corners = [(0, 0), (height - side, width - side), ((height - side) // 2, (width - side) // 2), (-8, -8)]
        for y, x in corners:
            region = Region(max(y, -8), max(x, -8), max(y, -8) + side, max(x, -8) + side)
            pixels = image.read(region, level=number)
            assert pixels.shape == (image.shape[0], side, side)
            assert pixels.dtype == image.dtype
    return f"{len(image.levels)} levels, {skipped} not read" if skipped else f"{len(image.levels)} levels"
