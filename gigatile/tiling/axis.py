"""The tile grid along one axis; the grid of an image is the product of two of these.

::

    pixel 0
    │core 0    core 1    core 2       stride = tile - 2 * halo = side of a core
    ├─────────┼─────────┼──────┄┄┤    the last core is cut at the edge of the image
              ┊         ┊
        ┌─────┊─────────┊─────┐       read of tile 1 = core grown by the halo
        │halo ┊         ┊ halo│
        └─────┊─────────┊─────┘
        ┌──┬──┊─────────┊──┬──┐
        │mm│reach       reach│mm│     margin (mm): read, never used; reach = halo - margin
        └──┴──────────────────┴──┘
            ◀──── support ────▶       pixels to which tile 1 contributes

Blending is a running weighted mean over the tiles that cover a pixel, in ascending order, so that where
all tiles agree the result is what they agree on, to the bit: ``m += w_i / (w_0 + ... + w_i) * (v - m)``.
The ratios depend on the position along the axis only; there is no count image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from gigatile.tiling.output_grid import SAME, OutputGrid

Blend = Literal["trim", "mean", "linear", "hann", "gaussian"]
BLENDS: tuple[str, ...] = get_args(Blend)

GAUSSIAN_SIGMA = 0.125
"""Sigma in tiles, the value that MONAI's sliding window made usual."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Tiles along one axis of an image, anchored at pixel 0 whatever is cut out of it later."""

    size: int
    """Pixels of the image along the axis."""
    tile: int
    """Pixels that the model sees at once."""
    halo: int
    """Pixels read beyond the core on each side; ``2 * halo < tile``."""
    reach: int
    """Pixels of the result beyond the core, on each side, to which a tile contributes; 0 for trim."""
    blend: Blend
    """Shape of the weights over the support."""
    output: OutputGrid = SAME
    """Resolution of the result. Reads count pixels of the image; everything else counts pixels of the result."""

    spare: int = 0
    """Pixels of the image between margin and core, on each side: for trim, where neighbours can be compared."""

    @property
    def seam_px(self) -> int:
        """Pixels of the result beyond a core that are compared with the neighbour's: 1 for trim, if there are any."""
        return min(int(self.spare * self.output.scale), 1) if self.blend == "trim" else 0

    @property
    def length(self) -> int:
        """Pixels of the result."""
        return self.output.length(self.size)

    @property
    def step(self) -> int:
        """Distance between tiles in pixels of the image."""
        return self.tile - 2 * self.halo

    @property
    def stride(self) -> int:
        """Distance between tiles = side of a core, in pixels of the result."""
        scale = self.output.scale
        # Asked for with every tile: arithmetic of fractions is what small blocks spend their time on.
        return self.step if scale == 1 else int(self.step * scale)

    @property
    def count(self) -> int:
        """Number of tiles."""
        return -(-self.length // self.stride)

    def read(self, index: int) -> tuple[int, int]:
        """Pixels of the image that tile `index` sees; hangs over it at its borders."""
        start = index * self.step - self.halo
        return start, start + self.tile

    def origin(self, index: int) -> int:
        """Where, in the result, the first pixel lies that the model gives for tile `index`."""
        return int((self.read(index)[0] + self.output.crop) * self.output.scale)

    def core(self, index: int) -> tuple[int, int]:
        """Pixels that tile `index` owns, cut at the edge of the image."""
        return index * self.stride, min((index + 1) * self.stride, self.length)

    def support(self, index: int) -> tuple[int, int]:
        """Pixels of the result to which tile `index` contributes."""
        start = index * self.stride - self.reach
        return max(start, 0), min(start + self.stride + 2 * self.reach, self.length)

    def covering(self, start: int, stop: int) -> range:
        """The tiles whose support meets ``[start, stop)``."""
        first = max((start - self.reach) // self.stride, 0)
        last = min(-(-(stop + self.reach) // self.stride), self.count)
        return range(first, max(last, first))

    def reads(self, start: int, stop: int) -> tuple[int, int]:
        """Pixels inside the image that the tiles covering ``[start, stop)`` of the result read, mirrored included."""
        tiles = self.covering(start, stop)
        low, high = self.read(tiles[0])[0], self.read(tiles[-1])[1]
        # Beyond the right edge the last tile sees what lies as far to the left of it; likewise at the left.
        mirrored_low = 2 * self.size - 1 - high if high > self.size else low
        return max(min(low, mirrored_low), 0), min(max(high, 1 - low), self.size)

    def fresh(self, index: int) -> int:
        """First pixel of the support of tile `index` that no earlier tile covers."""
        return 0 if index == 0 else self.support(index - 1)[1]

    def ratios(self, index: int) -> npt.NDArray[np.float32]:
        """Share of tile `index` in the running mean, over its support.

        Returns
        -------
        ndarray, shape (length of ``support(index)``,), float32
            ``w_i / (w_0 + ... + w_i)``: exactly 1 where no earlier tile covers the pixel, never 0.
        """
        width = self.stride + 2 * self.reach
        earlier = min(index, (width - 1) // self.stride)
        full = _ratios(self.blend, int(self.tile * self.output.scale), width, self.stride, earlier)
        start, stop = self.support(index)
        offset = index * self.stride - self.reach
        return full[start - offset : stop - offset]


def window(blend: Blend, tile: int, width: int, stride: int) -> npt.NDArray[np.float64]:
    """Weights over the `width` usable pixels at the centre of a tile, positive everywhere.

    ``linear`` and ``hann`` are flat where only one tile is usable and ramp over what two neighbours share;
    with the overlap at most half a tile the weights of neighbours then sum to one by themselves.

    Parameters
    ----------
    blend : Blend
        ``trim`` and ``mean`` weigh all pixels alike.
    tile, width, stride : int
        Pixels of the whole tile, of its usable part, and between tiles.
    """
    if blend in ("trim", "mean"):
        return np.ones(width)
    position = np.arange(width) + 0.5
    if blend == "gaussian":
        return np.asarray(np.exp(-0.5 * ((position - width / 2) / (GAUSSIAN_SIGMA * tile)) ** 2))
    ramp = min(width - stride, width / 2)
    if ramp == 0:
        return np.ones(width)
    rise = np.minimum(np.minimum(position, width - position) / ramp, 1.0)
    return np.asarray(rise if blend == "linear" else np.sin(np.pi / 2 * rise) ** 2)


@lru_cache(maxsize=256)
def _ratios(blend: Blend, tile: int, width: int, stride: int, earlier: int) -> npt.NDArray[Any]:
    """Ratios over an uncut support that has `earlier` tiles before it."""
    weights = window(blend, tile, width, stride)
    total = np.zeros(width)
    # Earlier tiles first, the first of them leftmost: the order in which the stitcher adds them.
    for back in range(earlier, 0, -1):
        total[: width - back * stride] += weights[back * stride :]
    result = (weights / (total + weights)).astype(np.float32)
    result.setflags(write=False)
    return result
