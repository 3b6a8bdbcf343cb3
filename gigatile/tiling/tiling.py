"""How an image is cut into tiles and blocks: what the user asks for, and the grid that follows from it.

::

    ┌───────────────┬───────────────┐   block = k x k cores: the unit of scheduling, writing and resuming
    │┌───┬───┬───┐  │               │   (one shard of the output)
    ││core   │   │  │               │
    │├───┼───┼───┤  │               │   chunk = what a viewer reads at once: the multiple or divisor of
    ││   │   │   │  │               │   the stride nearest 512 px that divides the block
    └┴───┴───┴───┴──┴───────────────┘
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import gcd, isqrt
from typing import Literal, get_args

from gigatile.errors import UsageError
from gigatile.tiling.axis import BLENDS, Axis, Blend
from gigatile.tiling.border import Border, parse_border
from gigatile.tiling.output_grid import SAME, OutputGrid
from gigatile.tiling.region import Region

DEFAULT_TILE = 512
CHUNK_TARGET = 512
BorderOf = Literal["image", "footprint"]


@dataclass(frozen=True, slots=True)
class Tiling:
    """What the user asks for; `auto` and None are filled in when the model and the image are known.

    Raises
    ------
    UsageError
        The numbers contradict each other: the overlap is odd or not below the tile, the margin is more
        than half of the overlap, a fraction stands where pixels are meant.
    """

    tile: int | tuple[int, int] | None = None
    """Pixels that the model sees at once, one side or (y, x); None: the model's own size, or 512."""
    overlap: int | Literal["auto"] = "auto"
    """Pixels that two neighbouring tiles share, even, below the tile; ``2 * halo``."""
    margin: int | Literal["auto"] = "auto"
    """Pixels along a tile's edge that are read and never used; at most half of the overlap."""
    blend: Blend | None = None
    """How overlapping predictions become one; None: ``hann``."""
    border: str = "reflect"
    """What lies beyond the image: ``reflect`` (numpy's), ``symmetric``, ``edge`` or ``constant:V``."""
    block: int | None = None
    """Side of a block in pixels, rounded up to whole cores; None: chosen by the plan."""
    border_of: BorderOf = "image"
    """What the border rule continues: the array alone, or before it the valid pixels (``footprint``), so that the
    model does not see nodata beside them; see `gigatile.tiling.footprint`."""

    def __post_init__(self) -> None:
        for name in ("tile", "overlap", "margin", "block"):
            _check_pixels(name, getattr(self, name))
        if self.blend is not None and self.blend not in BLENDS:
            raise UsageError("blend", expected=f"one of {', '.join(BLENDS)}", found=repr(self.blend))
        parse_border(self.border)
        if self.border_of not in get_args(BorderOf):
            raise UsageError("border_of", expected=" or ".join(get_args(BorderOf)), found=repr(self.border_of))
        if isinstance(self.overlap, int) and self.overlap % 2:
            fix = f"Type {self.overlap + 1} or {self.overlap - 1}."
            raise UsageError("overlap", expected="an even number of pixels", found=str(self.overlap), fix=fix)
        if self.tile is not None and isinstance(self.overlap, int) and self.overlap >= min(self.tile_yx):
            raise UsageError(
                "overlap",
                expected=f"less than the tile ({min(self.tile_yx)} px)",
                found=f"{self.overlap} px",
                fix=f"Type {min(self.tile_yx) // 8 * 2}, a quarter of the tile, or enlarge the tile.",
            )
        if isinstance(self.margin, int) and isinstance(self.overlap, int) and 2 * self.margin > self.overlap:
            raise UsageError(
                "margin",
                expected=f"at most half of the overlap ({self.overlap // 2} px)",
                found=f"{self.margin} px",
                fix=f"Enlarge the overlap to {2 * self.margin} or more.",
            )

    @property
    def tile_yx(self) -> tuple[int, int]:
        """The tile as (y, x); 512 square where it is not given."""
        tile = self.tile or DEFAULT_TILE
        return (tile, tile) if isinstance(tile, int) else tile

    def resolved(self, tile: tuple[int, int], multiple: int = 1, least_halo: int = 0) -> Tiling:
        """Fill in tile, overlap, margin and blend.

        Parameters
        ----------
        tile : (int, int)
            The model's own size, or the default; used where the user gave none.
        multiple : int
            What sides must be a multiple of for the model; the automatic halo is one, too.
        least_halo : int
            What the model cuts off by itself.
        """
        tile = tile if self.tile is None else self.tile_yx
        overlap = self.overlap
        if overlap == "auto":
            # A quarter of the tile, its halo a multiple of what the model needs, and still below the tile.
            beyond = max(min(tile) // 8 - least_halo, 0)
            halo = least_halo + -(-beyond // multiple) * multiple
            overlap = 2 * halo if 2 * halo < min(tile) else 0
        margin = 0 if self.margin == "auto" else self.margin
        return replace(self, tile=tile, overlap=overlap, margin=margin, blend=self.blend or "hann")

    def grid(self, shape: tuple[int, int], output: OutputGrid = SAME) -> Grid:
        """The tile grid over an image of `shape` (y, x); only for a resolved tiling.

        Raises
        ------
        UsageError
            Cores or halo are no whole pixels of the result, or the halo is less than what the model cuts off.
        """
        if self.overlap == "auto" or self.margin == "auto" or self.blend is None:
            raise ValueError("Tiling.grid: resolve the tiling first")
        halo = self.overlap // 2
        _check_output(output, halo, self.tile_yx)
        margin = halo if self.blend == "trim" else max(self.margin, output.crop)
        reach = int((halo - margin) * output.scale)
        spare = halo - max(self.margin, output.crop)
        axes = [
            Axis(size, tile, halo, reach, self.blend, output, spare)
            for size, tile in zip(shape, self.tile_yx, strict=True)
        ]
        return Grid(*axes)

    @property
    def parsed_border(self) -> Border:
        """The border rule as a value."""
        return parse_border(self.border)

    @property
    def footprint_reach(self) -> int:
        """Pixels beyond the valid ones that are continued: the halo, or none; only for a resolved tiling."""
        if self.overlap == "auto":
            raise ValueError("Tiling.footprint_reach: resolve the tiling first")
        return self.overlap // 2 if self.border_of == "footprint" else 0


@dataclass(frozen=True, slots=True)
class Grid:
    """All tiles of an image: a product of two axes, anchored at pixel (0, 0)."""

    y: Axis
    x: Axis

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the result."""
        return self.y.length, self.x.length

    @property
    def tiles(self) -> int:
        """Number of tiles, each counted once."""
        return self.y.count * self.x.count

    @property
    def stride(self) -> tuple[int, int]:
        """Height and width of a core, in pixels of the result."""
        return self.y.stride, self.x.stride

    def covering(self, region: Region) -> tuple[range, range]:
        """Rows and columns of the tiles whose support meets a region."""
        return self.y.covering(region.y0, region.y1), self.x.covering(region.x0, region.x1)

    def tiles_of(self, region: Region) -> int:
        """Number of tiles whose support meets a region."""
        rows, cols = self.covering(region)
        return len(rows) * len(cols)

    def core(self, row: int, col: int) -> Region:
        """Pixels of the result that a tile owns."""
        (y0, y1), (x0, x1) = self.y.core(row), self.x.core(col)
        return Region(y0, x0, y1, x1)

    def band(self, row: int, cols: range) -> Region:
        """Pixels of the image that the tiles of one row read together; hangs over it at its borders."""
        y0, y1 = self.y.read(row)
        return Region(y0, self.x.read(cols[0])[0], y1, self.x.read(cols[-1])[1])


@dataclass(frozen=True, slots=True)
class Blocks:
    """The result cut into rectangles of equal size, the last ones cut at its edges."""

    shape: tuple[int, int]
    """Height and width of the result."""
    side: tuple[int, int]
    """Height and width of a block."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of blocks."""
        return -(-self.shape[0] // self.side[0]), -(-self.shape[1] // self.side[1])

    @property
    def count(self) -> int:
        """Number of blocks."""
        return self.grid[0] * self.grid[1]

    def region(self, row: int, col: int) -> Region:
        """Pixels of one block."""
        y0, x0 = row * self.side[0], col * self.side[1]
        return Region(y0, x0, min(y0 + self.side[0], self.shape[0]), min(x0 + self.side[1], self.shape[1]))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """(row, col) of all blocks, row by row."""
        rows, cols = self.grid
        return ((row, col) for row in range(rows) for col in range(cols))

    def inferred(self, grid: Grid) -> int:
        """Tiles inferred when each block infers all tiles that it needs; at least ``grid.tiles``."""
        rows, cols = self.grid
        per_row = (self.region(row, 0) for row in range(rows))
        per_col = (self.region(0, col) for col in range(cols))
        return sum(len(grid.y.covering(r.y0, r.y1)) for r in per_row) * sum(
            len(grid.x.covering(r.x0, r.x1)) for r in per_col
        )


def chunk_side(stride: int, block: int | None = None) -> int:
    """The multiple or divisor of `stride` nearest 512 px, among those that divide `block` if given."""
    divisors = [d for d in range(1, isqrt(stride) + 1) if stride % d == 0]
    divisors += [stride // d for d in divisors]
    near = CHUNK_TARGET // stride
    limit = (block or (near + 1) * stride) // stride
    multiples = [m * stride for m in range(1, limit + 1)] if block else [near * stride, (near + 1) * stride]
    fitting = [c for c in divisors + multiples if c > 0 and (block is None or block % c == 0)]
    return min(fitting, key=lambda c: (abs(c - CHUNK_TARGET), c))


def block_side(stride: int, target: int) -> int:
    """The multiple of the stride and of its chunk nearest `target` px."""
    chunk = chunk_side(stride)
    unit = stride * chunk // gcd(stride, chunk)
    return max(round(target / unit), 1) * unit


def whole_cores(stride: int, pixels: int) -> int:
    """`pixels` rounded up to whole cores."""
    return -(-pixels // stride) * stride


def _check_output(output: OutputGrid, halo: int, tile: tuple[int, int]) -> None:
    """Refuse cores and halos that are no whole pixels of the result, and halos that the model cuts away."""
    if halo < output.crop:
        raise UsageError(
            "overlap",
            expected=f"at least {2 * output.crop} px, since the model cuts {output.crop} px off at each side",
            found=f"{2 * halo} px",
            fix=f"Type {2 * output.crop} or more.",
        )
    unit = output.scale.denominator
    if (halo - output.crop) % unit or any((side - 2 * halo) % unit for side in tile):
        raise UsageError(
            "overlap",
            expected=f"half of it, and tile minus overlap, in multiples of {unit}, as the result is 1/{unit} as large",
            found=f"tile {tile[0]} x {tile[1]}, overlap {2 * halo}",
            fix=f"Type an overlap of {-(-halo // unit) * 2 * unit}, and a tile in multiples of {unit}.",
        )


def _check_pixels(name: str, value: object) -> None:
    """Refuse fractions and non-positive numbers where pixels are meant."""
    if isinstance(value, tuple):
        if len(value) != 2:
            raise UsageError(name, expected="one side or (y, x)", found=repr(value))
        for side in value:
            _check_pixels(name, side)
    elif value is None or value == "auto":
        return
    elif isinstance(value, bool) or not isinstance(value, int):
        fix = "Type the number of pixels itself"
        if name == "overlap" and isinstance(value, float) and 0 < value < 1:
            fix = f"For a tile of {DEFAULT_TILE} px type {round(value * DEFAULT_TILE / 2) * 2}"
        raise UsageError(name, expected="a whole number of pixels", found=repr(value), fix=fix + ".")
    elif value < (0 if name in ("overlap", "margin") else 1):
        raise UsageError(name, expected="a positive number of pixels", found=repr(value))
