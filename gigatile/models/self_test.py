"""The test that a card brings along: its input through our normalisation and the model, against its output."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gigatile.errors import ModelError
from gigatile.machine import cache_folder
from gigatile.models.card import TestPair
from gigatile.models.model import LoadedModel
from gigatile.models.normalise import measure, parse_normalisation
from gigatile.models.values import Values

Array = np.ndarray[Any, Any]
MOST_VALUES = 1 << 28
"""Test tensors are one tile; a header that promises more is not believed."""


@dataclass(frozen=True, slots=True)
class SelfTest:
    """How far a model was from what its card promises."""

    max_difference: float
    """Largest absolute difference."""
    mismatched: int
    """Values beyond the tolerance."""
    values: int


def self_tested(loaded: LoadedModel) -> tuple[SelfTest, ...]:
    """The results of a card's tests, run once on a machine and kept by what goes into them.

    Raises
    ------
    ModelError
        The model does not give what its card promises, or the stored tensors cannot be read.
    """
    if loaded.card is None:
        return ()
    return tuple(_kept(loaded, pair) for pair in loaded.card.tests)


def run_test(loaded: LoadedModel, pair: TestPair) -> SelfTest:
    """Run one test.

    Memory bound
    ------------
    Both tensors, and what the model takes for one tile.

    Raises
    ------
    ModelError
        As `self_tested`.
    """
    given = _in_order(read_npy(pair.input), pair.input_axes, pair.input)
    expected = _in_order(read_npy(pair.output), pair.output_axes, pair.output).astype(np.float32)
    normalised = np.stack([_values(loaded.values, pixels).normalised(pixels) for pixels in given])
    got = loaded.values.activated(loaded.raw(normalised)).astype(np.float32)
    if got.shape != expected.shape:
        raise _failed(loaded, pair, f"an output of shape {expected.shape}", f"{got.shape}")
    apart = np.abs(got - expected)
    tolerance = pair.tolerance
    # NaN is beyond any tolerance.
    beyond = int(np.count_nonzero(~(apart <= tolerance.absolute + tolerance.relative * np.abs(expected))))
    largest = float(np.nanmax(apart)) if np.isfinite(apart).any() else float("nan")
    if beyond > tolerance.per_million * apart.size / 1e6:
        wanted = f"{pair.output.name} within {tolerance.absolute:g} + {tolerance.relative:g} x value"
        raise _failed(loaded, pair, wanted, f"{beyond} of {apart.size} values beyond it, the largest by {largest:.3g}")
    return SelfTest(largest, beyond, apart.size)


def read_npy(path: Path) -> Array:
    """A ``.npy`` file of numbers; one of objects, which would have to be unpickled, is refused.

    Raises
    ------
    ModelError
        It is no such file, or larger than any test.
    """
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = np.lib.format.read_array_header_1_0
            if version != (1, 0):
                read_header = np.lib.format.read_array_header_2_0
            shape, _, dtype = read_header(file)
            if dtype.kind not in "fiub" or int(np.prod(shape, dtype=np.float64)) > MOST_VALUES:
                raise ModelError(str(path), expected="numbers, one tile of them", found=f"{dtype} {shape}")
            file.seek(0)
            return np.asarray(np.lib.format.read_array(file))
    except (OSError, ValueError, EOFError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(str(path), expected="a .npy file of numbers", found=str(error)) from error


def _values(values: Values, pixels: Array) -> Values:
    """The values with statistics of this one picture, as a run has them of its image."""
    method = parse_normalisation(values.normalize)
    if method.kind == "none":
        return values
    from gigatile.images.open import open as open_image

    return replace(values, statistics=measure(open_image(pixels, axes="cyx"), method))


def _in_order(array: Array, axes: str, path: Path) -> Array:
    if array.ndim != len(axes):
        raise ModelError(str(path), expected=f"axes {axes}", found=f"shape {array.shape}")
    return np.ascontiguousarray(array.transpose([axes.index(axis) for axis in "bcyx"]))


def _failed(loaded: LoadedModel, pair: TestPair, expected: str, found: str) -> ModelError:
    return ModelError(
        f"{loaded.where}, the test of its card on {pair.input.name}",
        expected=expected,
        found=found,
        fix="The card does not fit the model, or is read wrongly: give the model file itself, with its options.",
    )


def _kept(loaded: LoadedModel, pair: TestPair) -> SelfTest:
    digest = hashlib.sha256()
    digest.update(f"{loaded.model.digest} {loaded.model.device} {loaded.values} {pair.tolerance}".encode())
    digest.update(f"{pair.input_axes} {pair.output_axes}".encode())
    for file in (pair.input, pair.output):
        digest.update(file.read_bytes())
    path = cache_folder() / "self-tests" / f"{digest.hexdigest()}.json"
    try:
        return SelfTest(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        done = run_test(loaded, pair)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(asdict(done)))
        temporary.replace(path)
    except OSError:
        # Without a cache it is run again next time.
        return done
    return done
