"""Classifiers of patches as models of maps: each tile becomes one pixel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gigatile.models.model import Batch, Model, Prediction


@dataclass(frozen=True, eq=False)
class PatchModel:
    """A model that gives ``(n, k)`` numbers for tiles of one size, as one that gives ``(n, k, 1, 1)``.

    Safe to call from several threads where the model is.
    """

    model: Model
    tile: tuple[int, int]
    """The patch, height and width in pixels."""

    calls_once = False

    @property
    def name(self) -> str:
        """See `Model.name`."""
        return self.model.name

    @property
    def digest(self) -> str:
        """See `Model.digest`."""
        return self.model.digest

    @property
    def channels_in(self) -> int | None:
        """See `Model.channels_in`."""
        return self.model.channels_in

    @property
    def fixed_tile(self) -> tuple[int, int] | None:
        """See `Model.fixed_tile`: the patch."""
        return self.tile

    @property
    def fixed_batch(self) -> int | None:
        """See `Model.fixed_batch`."""
        return self.model.fixed_batch

    @property
    def device(self) -> str:
        """See `Model.device`."""
        return self.model.device

    @property
    def files(self) -> tuple[Path, ...]:
        """See `Model.files`."""
        return self.model.files

    def predict(self, batch: Batch) -> Prediction:
        """See `Model.predict`; ``(n,)`` counts as one class."""
        result = self.model.predict(batch)
        return np.asarray(result).reshape(len(batch), -1, 1, 1) if result.ndim in (1, 2) else result

    def outputs(self, batch: Batch) -> Any:
        """See `Model.outputs`."""
        return self.model.outputs(batch)

    @property
    def metadata(self) -> Mapping[str, str]:
        """See `Model.metadata`."""
        return self.model.metadata
