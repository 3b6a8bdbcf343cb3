"""Probes by the hash of the model, so that a model is measured once on a machine."""

from __future__ import annotations

import json
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

from gigatile.machine import cache_folder
from gigatile.models.model import LoadedModel
from gigatile.models.probe import VERSION, Probe, measure


def known_probe(loaded: LoadedModel, channels: int) -> Probe | None:
    """The probe of a model: from the cache, or measured now; None for callables that nobody has probed.

    Planning calls a callable of the user once only, so it is measured only when the user asks for it.

    Raises
    ------
    ModelError
        The model does not run on noise.
    """
    if loaded.model.calls_once:
        return _read(_path(loaded, channels))
    return probed(loaded, channels)


def probed(loaded: LoadedModel, channels: int | None = None) -> Probe:
    """The probe of a model, from the cache or measured now and kept.

    Parameters
    ----------
    loaded : LoadedModel
    channels : int, optional
        Channels to try it with; what it says itself, or 3, if not given.

    Raises
    ------
    ModelError
        The model does not run on noise, or gives no maps.
    """
    channels = channels or loaded.model.channels_in or 3
    path = _path(loaded, channels)
    found = _read(path)
    if found is None:
        found = measure(loaded, channels)
        _write(path, found)
    return found


def _path(loaded: LoadedModel, channels: int) -> Path:
    name = f"{loaded.model.digest}-{loaded.model.device}-{channels}-v{VERSION}.json"
    return cache_folder() / "probes" / name


def _read(path: Path) -> Probe | None:
    """A cached probe; None where there is none, or one that was cut short or is of other fields."""
    try:
        values: dict[str, Any] = json.loads(path.read_text())
        values["output_scale"] = Fraction(values["output_scale"])
        values["radius"] = values["radius"] and tuple(values["radius"])
        values["effective"] = {share: tuple(radius) for share, radius in values["effective"].items()}
        return Probe(**values)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _write(path: Path, probe: Probe) -> None:
    """Keep a probe, unless the cache cannot be written: then it is measured again next time."""
    values = {name: getattr(probe, name) for name in Probe.__slots__}
    values["output_scale"] = str(probe.output_scale)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(values))
        temporary.replace(path)
    except OSError:
        return
