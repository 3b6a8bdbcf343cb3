"""What a model is to the engine: a function on batches, with the facts that tiling needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from gigatile.errors import BlockError, ModelOutOfMemory
from gigatile.models.augment import averaged
from gigatile.models.boxes.decode import decoded, format_of
from gigatile.models.boxes.format import AUTO, BoxFormat
from gigatile.models.boxes.frame import Frame
from gigatile.models.boxes.rows import Rows
from gigatile.models.card import ModelCard
from gigatile.models.labels import Labels, checked_labels
from gigatile.models.values import Values
from gigatile.tiling.output_grid import SAME, OutputGrid

Batch = np.ndarray[Any, Any]
"""float32, shape (n, c, y, x)."""
Prediction = np.ndarray[Any, Any]
"""Shape (n, k, y, x), the model's dtype."""
T = TypeVar("T")


class Model(Protocol):
    """A model of any kind. Safe to call from several threads; picklable, and loaded once per process."""

    @property
    def name(self) -> str:
        """File name, or ``package.module:name``; without folders."""
        ...

    @property
    def digest(self) -> str:
        """sha256 of the file or of the source of the callable."""
        ...

    @property
    def channels_in(self) -> int | None:
        """Channels that it takes; None: any."""
        ...

    @property
    def fixed_tile(self) -> tuple[int, int] | None:
        """The only (y, x) that it takes; None: any multiple of what it needs."""
        ...

    @property
    def fixed_batch(self) -> int | None:
        """The only batch that it takes; None: any."""
        ...

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda``: the kind, which can change the last bits."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that a worker needs to have it; the first is the model. Empty where it travels by value or by name."""
        ...

    @property
    def calls_once(self) -> bool:
        """Whether planning may call it once only (callables of the user)."""
        ...

    def predict(self, batch: Batch) -> Prediction:
        """Run one batch.

        Parameters
        ----------
        batch : ndarray, float32, shape (n, c, y, x)
            Normalised pixels.

        Returns
        -------
        ndarray, shape (n, k, y', x')
        """
        ...

    def outputs(self, batch: Batch) -> Any:
        """Run one batch and give back all that comes out: for detectors, which have outputs of many shapes.

        Parameters
        ----------
        batch : ndarray, float32, shape (n, c, y, x)
            Normalised pixels.

        Returns
        -------
        ndarray, or mapping or sequence of them
            By name where outputs have names; see `gigatile.models.boxes.format`.
        """
        ...

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the exporter wrote into the file."""
        ...


OUT_OF_MEMORY = (
    "out of memory",  # CUDA's own text, in onnxruntime and torch
    "failed to allocate memory",  # onnxruntime's arena
    "bad_alloc",
    "bad allocation",
    "not enough memory",  # torch on the CPU
    "can't allocate memory",
    "status_alloc_failed",  # CUDNN_ and CUBLAS_
)
"""What runtimes say, in small letters, when memory runs out: their exceptions have no class in common."""


@dataclass(frozen=True)
class LoadedModel:
    """A model together with the values that go in and come out of it."""

    model: Model
    values: Values
    """Scaling, normalisation and activation."""
    batch: int | None = None
    """Tiles per call that the user asked for; None: chosen."""
    class_names: tuple[str, ...] = ()
    class_colors: tuple[str, ...] = ()
    output: OutputGrid = SAME
    """Where its output lies in its input; planning finds that out."""
    card: ModelCard | None = None
    """What its author's card says, less what somebody said otherwise; scaling, activation and names are in `values` and
    `class_names` already."""
    boxes: BoxFormat = AUTO
    """What the numbers of a detector mean. Planning puts what it recognised in the place of ``auto``."""
    score: float | None = None
    """Least score of an object; candidates below it are dropped before anything is made of them. None: nobody has said;
    planning does."""

    @cached_property
    def where(self) -> str:
        """How messages name the model."""
        return f"model {self.model.name}"

    def predict(self, batch: Batch) -> Prediction:
        """Run one batch and apply the activation.

        Raises
        ------
        ModelOutOfMemory
            The memory does not hold the batch.
        BlockError
            The model raised, or gave something that is not one map per tile of the size that was planned.
        """
        try:
            return averaged(self._once, batch, self.values.augmentation)
        except MemoryError as error:
            raise self._out_of_memory(batch, error) from error

    def _once(self, batch: Batch) -> Prediction:
        result = self.raw(batch)
        check_prediction(self.where, batch.shape, result, self.output)
        return self.values.activated(result)

    def raw(self, batch: Batch) -> Prediction:
        """What the model itself gives, of whatever shape; batches of a model that takes one size only are filled up.

        Raises
        ------
        ModelOutOfMemory
            The memory does not hold the batch.
        BlockError
            The model raised.
        """
        result = self._answered(lambda full: np.asarray(self.model.predict(full)), batch)
        return result[: len(batch)] if self._fills(batch) else result

    def outputs(self, batch: Batch) -> Any:
        """All that the model itself gives, of whatever shapes, for a batch filled up as in `raw`.

        Raises
        ------
        ModelOutOfMemory
            The memory does not hold the batch.
        BlockError
            The model raised.
        """
        return self._answered(self.model.outputs, batch)

    def detect(self, batch: Batch) -> list[Rows]:
        """The objects of one batch.

        Returns
        -------
        list of n ndarray, float64, shape (m, 6) or (m, 7)
            x1, y1, x2, y2, score, class; or cx, cy, width, height, radians, score, class; in pixels of the tile with
            their origin at its outer corner. Scores are at least `score`. All have the same columns.

        Raises
        ------
        ModelOutOfMemory
            The memory does not hold the batch.
        BlockError
            The model raised, or gave something that is no objects, by `boxes`.
        """
        try:
            answer = self.outputs(batch)
            frame = self.frame(batch)
            return decoded(frame, self.format_of(frame, answer), answer)
        except MemoryError as error:
            raise self._out_of_memory(batch, error) from error

    def frame(self, batch: Batch) -> Frame:
        """What decoding needs to know of a batch."""
        given = len(batch) + self._fills(batch)
        return Frame(self.where, (batch.shape[2], batch.shape[3]), given, len(batch), self.score or 0.0)

    def format_of(self, frame: Frame, answer: Any) -> BoxFormat:
        """`boxes`, or what is recognised in its place.

        Raises
        ------
        BlockError
            Nothing is.
        """
        return format_of(frame, self.boxes, answer, self.model.metadata)

    def labels(self, batch: Batch) -> Labels:
        """The labels of one batch; see `gigatile.models.labels.checked_labels`.

        Returns
        -------
        ndarray, uint32, shape (n, y, x)
            0 is background; a number is one object of its tile.

        Raises
        ------
        ModelOutOfMemory
            The memory does not hold the batch.
        BlockError
            The model raised, or gave something that is not one map of labels per tile.
        """
        try:
            return checked_labels(self.where, batch.shape, self.raw(batch))
        except MemoryError as error:
            raise self._out_of_memory(batch, error) from error

    def _fills(self, batch: Batch) -> int:
        """Tiles that are missing for a model that takes one size of batch only."""
        only = self.model.fixed_batch
        return max(only - len(batch), 0) if only is not None else 0

    def _answered(self, call: Callable[[Batch], T], batch: Batch) -> T:
        """What a call gives for a batch, filled up with zeros where the model takes one size only.

        Raises
        ------
        ModelOutOfMemory
            The memory does not hold the batch.
        BlockError
            The model raised.
        """
        if missing := self._fills(batch):
            batch = np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), batch.dtype)])
        try:
            return call(batch)
        except Exception as error:
            if is_out_of_memory(error):
                raise self._out_of_memory(batch, error) from error
            raise BlockError(
                self.where,
                found=f"{type(error).__name__}: {error}",
                fix=f"It was called with float32 {batch.shape}.",
            ) from error

    def _out_of_memory(self, batch: Batch, error: Exception) -> ModelOutOfMemory:
        said = str(error).strip().splitlines()
        return ModelOutOfMemory(
            self.where,
            expected=f"memory for float32 {batch.shape}",
            found=f"{type(error).__name__}: {said[0][:300]}" if said else type(error).__name__,
            fix="Type a smaller --tile, or --workers 1; on a GPU, see that nothing else uses it.",
        )


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory, of the host or of a device, ran out: by the class of the error, or by what it says."""
    return isinstance(error, MemoryError) or any(text in str(error).lower() for text in OUT_OF_MEMORY)


def check_prediction(where: str, given: tuple[int, ...], result: Prediction, output: OutputGrid) -> None:
    """Refuse what is not ``(n, k, y', x')`` numbers of the size that the output grid says.

    Raises
    ------
    BlockError
        The number of maps or their size differs from what was planned, or the dtype is no number.
    """
    n, _, height, width = given
    sides = output.of_tile(height), output.of_tile(width)
    if result.ndim != 4 or len(result) != n or result.shape[1] < 1 or result.shape[2:] != sides:
        wanted = f"an array ({n}, k, {sides[0]}, {sides[1]})"
        raise BlockError(where, expected=wanted, found=f"shape {result.shape}")
    if result.dtype.kind not in "fiub":
        raise BlockError(where, expected="real numbers", found=f"dtype {result.dtype}")
