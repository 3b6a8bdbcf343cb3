"""`--postprocess` as typed, to the method that it names."""

from __future__ import annotations

from collections.abc import Callable

from gigatile.errors import UsageError
from gigatile.objects.postprocess import components, flows, stardist, watershed
from gigatile.objects.postprocess.method import OPTION, Postprocess
from gigatile.objects.postprocess.words import Words

METHODS: dict[str, Callable[[Words], Postprocess]] = {
    "components": components.parse,
    "watershed": watershed.parse,
    "stardist": stardist.parse,
    "flows": flows.parse,
}


def parse_postprocess(text: str, where: str = OPTION) -> Postprocess:
    """Read ``components``, ``watershed:distance=1,min_area=30`` and the like.

    Parameters
    ----------
    text : str
        ``METHOD`` or ``METHOD:name=value,...``.
    where : str
        How messages name the place that it was written at.

    Raises
    ------
    UsageError
        The method or one of its options is unknown, or a value is not what the option takes.
    """
    name, _, rest = text.strip().partition(":")
    if name not in METHODS:
        raise UsageError(
            where,
            expected=f"{', '.join(METHODS)}, and its numbers",
            found=repr(text),
            fix="For example components:threshold=0.5,min_area=15.",
        )
    words = Words(where, name, rest)
    method = METHODS[name](words)
    words.end()
    return method
