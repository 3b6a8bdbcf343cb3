"""Harm to the files of a run that does not go on: what a bad disk, a bad copy or a person does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

from scripts.havoc.records import read_ledger

Harm = Callable[[Path, Random], tuple[Path, Counter[str]]]
"""Harms a run directory; returns the file, and the blocks that have to be done again."""


def cut_shard(directory: Path, rng: Random) -> tuple[Path, Counter[str]]:
    """A shard loses its end."""
    path, block = _shard(directory, rng)
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])
    return path, Counter({block: 1})


def flip_byte(directory: Path, rng: Random) -> tuple[Path, Counter[str]]:
    """One byte of a shard changes; its size does not."""
    path, block = _shard(directory, rng)
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return path, Counter({block: 1})


def delete_shard(directory: Path, rng: Random) -> tuple[Path, Counter[str]]:
    """A shard is gone."""
    path, block = _shard(directory, rng)
    path.unlink()
    return path, Counter({block: 1})


def cut_record(directory: Path, rng: Random) -> tuple[Path, Counter[str]]:
    """A segment of the ledger ends in the middle of its last record; what stood behind that is gone, too."""
    choices = []
    for path in sorted((directory / "ledger").iterdir()):
        lines = path.read_bytes().splitlines(keepends=True)
        records = [index for index, line in enumerate(lines) if read_ledger({"one.jsonl": line}).finished]
        if records:
            choices.append((path, lines[: records[-1]], lines[records[-1]]))
    path, kept, record = rng.choice(choices)
    # Without its end it is no line; without all of it nothing would be torn.
    path.write_bytes(b"".join([*kept, record[: rng.randrange(1, len(record) - 1)]]))
    return path, read_ledger({"one.jsonl": record}).finished


HARMS: dict[str, Harm] = {
    "cut a shard": cut_shard,
    "flip a byte": flip_byte,
    "delete a shard": delete_shard,
    "cut a record": cut_record,
}
SEEN_BY_SIZE = frozenset({"cut a shard", "delete a shard"})
"""Those that the next run notices without ``verify``."""


def _shard(directory: Path, rng: Random) -> tuple[Path, str]:
    """A shard whose block is recorded as done, and the block."""
    ledger = read_ledger({path.name: path.read_bytes() for path in (directory / "ledger").iterdir()})
    done = sorted(block for block in ledger.finished if _path(directory, block).exists())
    block = rng.choice(done)
    return _path(directory, block), block


def _path(directory: Path, block: str) -> Path:
    level, row, col = block.split("/")
    # Channels are not cut into shards: the first index is 0.
    return directory / "prediction.zarr" / level / "c" / "0" / row / col
