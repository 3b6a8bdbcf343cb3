"""One trial call of a model while planning: does it fit the tile, what comes out, what does it cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from gigatile.errors import BlockError, ModelError
from gigatile.machine import resident_bytes
from gigatile.models.augment import symmetries
from gigatile.models.boxes.decode import decoded
from gigatile.models.boxes.format import BoxFormat
from gigatile.models.boxes.rows import ORIENTED
from gigatile.models.labels import checked_labels
from gigatile.models.model import Batch, LoadedModel, Prediction, check_prediction
from gigatile.tiling.output_grid import SAME, OutputGrid, from_one_size, from_two_sizes

T = TypeVar("T")
SIZE_MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
"""What sides may have to be a multiple of."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What a call on zeros showed."""

    channels_out: int
    dtype: np.dtype[Any]
    """dtype of the prediction, after the activation."""
    bytes_per_tile: int
    """Memory that one tile takes while it is inferred, input and output included."""
    seconds_per_tile: float
    output: OutputGrid = SAME
    """Where the output lies in the input."""


class PeakRss:
    """Largest resident memory of this process while the block runs, sampled every half millisecond."""

    def __enter__(self) -> PeakRss:
        self.before = self.peak = resident_bytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.0005):
            self.peak = max(self.peak, resident_bytes())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.peak = max(self.peak, resident_bytes())


def try_model(loaded: LoadedModel, channels: int, tile: tuple[int, int], batch: int = 1) -> Trial:
    """Call a model on one batch of zeros of the size that it will see.

    Raises
    ------
    ModelError
        Its channels, its size or what it returns do not fit; the message says which size would.
    """
    _check_channels(loaded, channels)
    _check_tile(loaded, tile)
    fixed = loaded.model.fixed_tile
    if loaded.values.augmentation == "d4" and fixed is not None and fixed[0] != fixed[1]:
        found = f"its only tile, {fixed[0]} x {fixed[1]} px"
        raise ModelError(f"tta d4, {loaded.where}", expected="a tile that can be turned", found=found, fix="Use flips.")
    zeros = np.zeros((batch, channels, *tile), np.float32)
    try:
        result, cost = _measured(loaded.raw, zeros)
        output = _output_grid(loaded, channels, tile, result)
        check_prediction(loaded.where, zeros.shape, result, output)
        result = loaded.values.activated(result)
    except BlockError as error:
        raise _explained(loaded, tile, error, lambda: size_multiple(loaded, channels)) from error
    copies = len(symmetries(loaded.values.augmentation))
    taken = max(cost.grown_bytes + zeros.nbytes, zeros.nbytes + 2 * result.nbytes)
    dtype = result.dtype
    if copies > 1:
        # The turned copy of the batch, and the mean beside the newest prediction.
        taken += zeros.nbytes + 2 * result.size * 4
        dtype = np.dtype(np.float32)
    return Trial(result.shape[1], dtype, -(-taken // batch), copies * cost.seconds / batch, output)


@dataclass(frozen=True, slots=True)
class DetectorTrial:
    """What a call of a detector on zeros showed."""

    boxes: BoxFormat
    """What its numbers mean, with ``auto`` recognised."""
    columns: int
    """Of its rows: 6, or 7 where boxes are oriented. A function that finds nothing in zeros and gives arrays without
    columns counts as 6."""
    bytes_per_tile: int
    """Memory that one tile takes while objects are looked for, input and outputs included."""
    seconds_per_tile: float

    @property
    def oriented(self) -> bool:
        """Whether boxes are turned."""
        return self.columns == ORIENTED


def try_detector(loaded: LoadedModel, channels: int, tile: tuple[int, int], batch: int = 1) -> DetectorTrial:
    """Call a detector on one batch of zeros of the size that it will see; once.

    Raises
    ------
    ModelError
        Its channels or its size do not fit, or what it gives is no objects; the message says which size, or what to
        type after ``--boxes``.
    """
    _check_channels(loaded, channels)
    _check_tile(loaded, tile)
    zeros = np.zeros((batch, channels, *tile), np.float32)
    try:
        answer, cost = _measured(loaded.outputs, zeros)
        frame = loaded.frame(zeros)
        boxes = loaded.format_of(frame, answer)
        rows = decoded(frame, boxes, answer)
    except BlockError as error:
        raise _explained(loaded, tile, error, lambda: detector_size_multiple(loaded, channels)) from error
    # Candidates become rows of float64, twice: zeros hold few objects, pictures may hold as many as there are.
    taken = max(cost.grown_bytes + zeros.nbytes, zeros.nbytes + 4 * _bytes_of(answer))
    return DetectorTrial(boxes, rows[0].shape[1], -(-taken // batch), cost.seconds / batch)


def try_labels(loaded: LoadedModel, channels: int, tile: tuple[int, int], batch: int = 1) -> Trial:
    """Call a function that labels on one batch of zeros of the size that it will see; once.

    Returns
    -------
    Trial
        With one channel of uint32.

    Raises
    ------
    ModelError
        Its channels or its size do not fit, or what it gives is not one map of labels of the tile's size.
    """
    _check_channels(loaded, channels)
    _check_tile(loaded, tile)
    zeros = np.zeros((batch, channels, *tile), np.float32)
    try:
        result, cost = _measured(loaded.raw, zeros)
        labels = checked_labels(loaded.where, zeros.shape, result)
    except BlockError as error:
        raise _explained(loaded, tile, error, lambda: size_multiple(loaded, channels)) from error
    taken = max(cost.grown_bytes, result.nbytes) + zeros.nbytes + labels.nbytes
    return Trial(1, labels.dtype, -(-taken // batch), cost.seconds / batch)


@dataclass(frozen=True, slots=True)
class _Cost:
    grown_bytes: int
    """By how much the process grew."""
    seconds: float


def _measured(call: Callable[[Batch], T], zeros: Batch) -> tuple[T, _Cost]:
    with PeakRss() as memory:
        start = time.perf_counter()
        result = call(zeros)
        seconds = time.perf_counter() - start
    return result, _Cost(memory.peak - memory.before, seconds)


def _bytes_of(answer: Any) -> int:
    """Of all arrays in it."""
    if isinstance(answer, Mapping):
        return sum(map(_bytes_of, answer.values()))
    if isinstance(answer, (list, tuple)):
        return sum(map(_bytes_of, answer))
    return int(np.asarray(answer).nbytes)


def _check_tile(loaded: LoadedModel, tile: tuple[int, int]) -> None:
    fixed = loaded.model.fixed_tile
    if fixed is not None and fixed != tile:
        raise ModelError(
            loaded.where,
            expected=f"its own tile of {fixed[0]} x {fixed[1]} px",
            found=f"tile {tile[0]} x {tile[1]}",
            fix=f"Leave --tile out, or type --tile {fixed[0]},{fixed[1]}.",
        )


def _output_grid(loaded: LoadedModel, channels: int, tile: tuple[int, int], result: Prediction) -> OutputGrid:
    """From one output where there is no other, from two sizes where the model takes any."""
    if result.ndim != 4 or result.shape[2:] == tile:
        return SAME
    if loaded.model.fixed_tile is not None or loaded.model.calls_once:
        return from_one_size(loaded.where, tile[0], result.shape[2])
    return _free_output_grid(loaded, channels)


def _free_output_grid(loaded: LoadedModel, channels: int) -> OutputGrid:
    """Scale and crop of a model of any size, from two sizes that suit all multiples."""
    sides = (128, 192)
    got = [loaded.raw(np.zeros((1, channels, side, side), np.float32)).shape for side in sides]
    if any(len(shape) != 4 for shape in got):
        raise BlockError(loaded.where, expected="an array (n, k, y, x)", found=f"shape {got[0]}")
    return from_two_sizes(loaded.where, (sides[0], got[0][2]), (sides[1], got[1][2]))


def size_multiple(loaded: LoadedModel, channels: int) -> int:
    """What sides must be a multiple of: the smallest power of two up to 64 for which the model runs.

    Models of one size, and callables (which planning calls once only), are taken at their word: 1.
    """
    if loaded.model.fixed_tile is not None or loaded.model.calls_once:
        return 1
    try:
        output = _free_output_grid(loaded, channels)
    except BlockError as error:
        raise ModelError(loaded.where, expected="a model that runs on zeros", found=error.found) from error
    return _smallest_multiple(lambda side: _runs(loaded, channels, side, output))


def detector_size_multiple(loaded: LoadedModel, channels: int) -> int:
    """What sides must be a multiple of: the smallest power of two up to 64 for which the detector runs.

    Models of one size, and callables, are taken at their word: 1.
    """
    if loaded.model.fixed_tile is not None or loaded.model.calls_once:
        return 1

    def runs(side: int) -> bool:
        try:
            loaded.outputs(np.zeros((1, channels, side, side), np.float32))
        except BlockError:
            return False
        return True

    return _smallest_multiple(runs)


def _smallest_multiple(runs: Callable[[int], bool]) -> int:
    """The smallest power of two whose multiples run as sides; 1 where none does."""
    for multiple in SIZE_MULTIPLES:
        # 64 m + m is a multiple of m and of nothing larger that is a power of two.
        if runs(64 + multiple if multiple < 64 else 128):
            return multiple
    return 1


def batch_changes_bits(loaded: LoadedModel, channels: int, tile: tuple[int, int], batch: int) -> bool:
    """Whether tiles come out differently in a batch than alone, or depending on their place in it."""
    noise = np.random.default_rng(0).random((batch, channels, *tile), np.float32)
    together = loaded.predict(noise)
    turned = loaded.predict(np.roll(noise, 1, axis=0))
    alone = np.concatenate([loaded.predict(noise[i : i + 1]) for i in range(batch)])
    return not (np.array_equal(together, alone) and np.array_equal(np.roll(together, 1, axis=0), turned))


def batch_changes_boxes(loaded: LoadedModel, channels: int, tile: tuple[int, int], batch: int) -> bool:
    """Whether tiles have other objects in a batch than alone, or depending on their place in it; all scores count."""
    noise = np.random.default_rng(0).random((batch, channels, *tile), np.float32)
    everything = replace(loaded, score=0.0)
    together = everything.detect(noise)
    turned = everything.detect(np.roll(noise, 1, axis=0))
    alone = [everything.detect(noise[i : i + 1])[0] for i in range(batch)]
    same = [np.array_equal(rows, other) for rows, other in zip(together, alone, strict=True)]
    same += [np.array_equal(rows, other) for rows, other in zip(together[-1:] + together[:-1], turned, strict=True)]
    return not all(same)


def _runs(loaded: LoadedModel, channels: int, side: int, output: OutputGrid) -> bool:
    try:
        shape = loaded.raw(np.zeros((1, channels, side, side), np.float32)).shape
    except BlockError:
        return False
    return bool(shape[2:] == (output.of_tile(side), output.of_tile(side)))


def _check_channels(loaded: LoadedModel, channels: int) -> None:
    wanted = loaded.model.channels_in
    if wanted is not None and wanted != channels:
        raise ModelError(
            loaded.where,
            expected=f"{wanted} channels",
            found=f"{channels} selected from the image",
            fix="Choose them with --channels, for example --channels " + ",".join(str(i) for i in range(wanted)) + ".",
        )
    loaded.values.check(channels)


def _explained(
    loaded: LoadedModel, tile: tuple[int, int], error: BlockError, find_multiple: Callable[[], int]
) -> ModelError:
    """Say which tile would do, where trying a few shows it."""
    fix = error.fix
    multiple = find_multiple()
    if multiple > 1 and any(side % multiple for side in tile):
        sides = [max(round(side / multiple), 1) * multiple for side in tile]
        fix = f"Its sides must be multiples of {multiple}: type --tile {sides[0]},{sides[1]}."
        found = f"{tile[0]} x {tile[1]}"
        return ModelError(loaded.where, expected=f"a tile in multiples of {multiple}", found=found, fix=fix)
    return ModelError(loaded.where, expected=error.expected, found=error.found, fix=fix)
