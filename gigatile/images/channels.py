"""Names by which `--channels` can choose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each of those that occur twice with its index."""
    counts = Counter(names)
    return tuple(f"{name} {i}" if counts[name] > 1 else name for i, name in enumerate(names))
