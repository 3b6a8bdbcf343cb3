"""Arrays, layouts and a whole result written shard by shard."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gigatile.outputs.layout import ArrayLayout
from gigatile.outputs.omezarr import ResultMetadata, create_result
from gigatile.outputs.shard import ShardReceipt, ShardWriter
from gigatile.storage.local import LocalStore
from gigatile.storage.store import Store


def local(root: Path, *, durable: bool = False) -> LocalStore:
    return LocalStore(root, durable)


@dataclass(frozen=True)
class Remote(LocalStore):
    """A directory that says that it is none of this machine, and notes what is asked of it."""

    durable: bool = False
    ranges: list[tuple[str, int, int]] = field(default_factory=list)
    """Key, offset and bytes of each request."""

    @property
    def local(self) -> None:
        return None

    def read_range(self, key: str, offset: int, nbytes: int) -> bytes:
        self.ranges.append((key, offset, nbytes))
        return super().read_range(key, offset, nbytes)


def make_layout(shape=(100, 90), channels=None, dtype="uint8", fill=255, *, shard=(64, 64), chunk=(16, 32)):
    return ArrayLayout(shape, channels, np.dtype(dtype), fill, shard, chunk)


def noise(layout: ArrayLayout, seed: int = 0, holes: float = 0.3) -> np.ndarray:
    """Pixels of the whole array; rectangles of fill, some larger than a chunk."""
    rng = np.random.default_rng(seed)
    shape = layout.shape if layout.channels is None else (layout.channels, *layout.shape)
    if layout.dtype.kind == "f":
        pixels = rng.standard_normal(shape).astype(layout.dtype)
    else:
        info = np.iinfo(layout.dtype)
        pixels = rng.integers(info.min, info.max, shape, dtype=layout.dtype, endpoint=True)
    if rng.random() < holes:
        y, x = (int(rng.integers(0, side)) for side in layout.shape)
        pixels[..., y:, x:] = layout.fill
    if rng.random() < holes:
        pixels[..., : layout.shard[0], : layout.shard[1]] = layout.fill
    return pixels


def write_shard(store: Store, key: str, layout: ArrayLayout, pixels: np.ndarray, rows=None) -> ShardReceipt:
    """One shard from its pixels, handed over in bands of `rows`."""
    step = rows or layout.chunk[0]
    with ShardWriter(store, key, layout, pixels.shape[-2:]) as writer:
        for y0 in range(0, pixels.shape[-2], step):
            writer.write(pixels[..., y0 : y0 + step, :])
        return writer.finish()


def write_level(
    store: Store, level: int, layout: ArrayLayout, pixels: np.ndarray
) -> dict[tuple[int, int], ShardReceipt]:
    receipts = {}
    for row in range(layout.grid[0]):
        for col in range(layout.grid[1]):
            part = pixels[(..., *layout.region(row, col).slices())]
            receipts[row, col] = write_shard(store, f"{level}/{layout.shard_key(row, col)}", layout, part)
    return receipts


def write_result(store: Store, layouts, pixels, description: ResultMetadata | None = None):
    """Metadata of all levels and the shards of level 0."""
    create_result(store, layouts, description or ResultMetadata("nearest"))
    return write_level(store, 0, layouts[0], pixels)


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
