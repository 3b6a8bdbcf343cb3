"""Shapes planted in a small image, models of a few lines that find them, and runs over both.

The models are written to a file, because worker processes and clusters import them by its name.
"""

import hashlib
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np

import gigatile as gt
from tests.small_runs import tree, write_zarr

SIZE = (330, 400)
LARGEST = 28
"""Side of a shape: less than the overlap, so that each is seen whole by a tile."""
TILING = gt.Tiling(tile=96, overlap=32, border="constant:10", block=128)
"""Blocks of 2 x 2 tiles: 3 x 4 of them."""
TILING_WORDS = ("--tile", "96", "--overlap", "32", "--border", "constant:10", "--block", "128")
FIND = 12
"""Blocks of `SIZE` at `TILING`."""
MAPS = gt.Tiling(tile=96, overlap=32, margin=4, blend="hann", block=1024)
"""For maps: their blocks have whole cells of about 1,024 px, so that only larger images have several."""
BACKGROUND = 10

MODELS = '''
"""Finds planted shapes: whatever is brighter than the background."""

import os
import time
from pathlib import Path

import numpy as np
from scipy import ndimage

HERE = Path(__file__).parent


def shapes(tile):
    """Labels and slices of the shapes of a tile (c, y, x)."""
    labels, _ = ndimage.label(tile[0] > 20 / 255)
    return labels, ndimage.find_objects(labels)


def whole(tile):
    """A box around each shape; the more of it is seen, the better its score."""
    labels, places = shapes(tile)
    rows = []
    for number, (y, x) in enumerate(places, 1):
        inside = labels[y, x] == number
        kind = round(float(tile[0, y, x][inside][0]) * 255) % 2
        rows.append((x.start, y.start, x.stop, y.stop, 0.3 + 0.6 * inside.sum() / 900, kind))
    return np.array(rows, np.float64).reshape(-1, 6)


def boxes(batch):
    return [whole(tile) for tile in batch]


def crowd(batch):
    """The same, and a second and a third opinion a pixel or two away, some of equal score, some of another class."""
    found = []
    for tile in batch:
        best = whole(tile)
        left, right = best.copy(), best.copy()
        left[:, :4] += [-3, -1.25, -2, 0.5]
        right[:, :4] += [4, 2, 5, 3]
        right[:, 4] -= 0.125
        right[::3, 5] = 1 - right[::3, 5]
        found.append(np.concatenate([left, best, right]))
    return found


def turned(batch):
    """A box along the main axis of each shape; and a second opinion."""
    found = []
    for tile in batch:
        labels, places = shapes(tile)
        rows = []
        for number, (y, x) in enumerate(places, 1):
            points = np.argwhere(labels[y, x] == number)[:, ::-1] + 0.5 + [x.start, y.start]
            centre = points.mean(axis=0)
            spread = np.cov((points - centre).T) if len(points) > 2 else np.eye(2)
            angle = 0.5 * np.arctan2(2 * spread[0, 1], spread[0, 0] - spread[1, 1])
            sides = np.sqrt(12 * np.linalg.eigvalsh(spread)[::-1].clip(1))
            score = 0.3 + 0.6 * len(points) / 900
            rows.append((*centre, *sides, angle, score, len(points) % 2))
            rows.append((*centre + 1, *sides * 1.1, angle + 0.05, score - 0.1, len(points) % 2))
        # What BLAS adds up may differ in its last bits from one call to the next; sixty-fourths do not.
        found.append(np.round(np.array(rows, np.float64).reshape(-1, 7) * 64) / 64)
    return found


def labels(batch):
    return np.stack([shapes(tile)[0] for tile in batch])


def maps(batch):
    """Near 1 inside of shapes."""
    return (batch[:, :1] > 20 / 255).astype(np.float32) * np.float32(0.9)


def depth(batch):
    """Inside of shapes, and how far from their edges."""
    inside = batch[:, 0] > 20 / 255
    deep = np.stack([ndimage.distance_transform_edt(one) for one in inside])
    return np.stack([inside.astype(np.float32), deep.astype(np.float32) / 16], axis=1)


def sleepy(batch):
    time.sleep(0.02)
    return boxes(batch)


def sleepy_labels(batch):
    time.sleep(0.02)
    return labels(batch)


def _check(batch):
    if (HERE / "broken").exists() and (batch >= 1).any():
        raise ValueError("no weights for this")


def fragile(batch):
    """Raises on pixels of 255 while a file named `broken` is there."""
    _check(batch)
    return boxes(batch)


def fragile_labels(batch):
    _check(batch)
    return labels(batch)
'''


def plant(
    size: tuple[int, int] = SIZE, count: int = 90, seed: int = 0, apart: Literal["pixels", "boxes"] = "pixels"
) -> tuple[np.ndarray, np.ndarray]:
    """Discs, bars, crosses and slanting bars whose pixels, or whose boxes, do not touch each other.

    Returns
    -------
    pixels : ndarray, uint8 (y, x, 1)
        One brightness, from 60 on, inside of each shape.
    truth : ndarray, int32 (y, x)
        Labels, 0 = background.
    """
    rng = np.random.default_rng(seed)
    truth = np.zeros((size[0] + 2, size[1] + 2), np.int32)
    taken = np.zeros(truth.shape, bool)
    placed = 0
    for _ in range(50 * count):
        side = int(rng.integers(6, LARGEST))
        y, x = int(rng.integers(0, size[0] - 8)), int(rng.integers(0, size[1] - 8))
        shape = _shape(int(rng.integers(4)), side)[: size[0] - y, : size[1] - x]
        height, width = shape.shape
        if taken[y : y + height + 2, x : x + width + 2].any():
            continue
        placed += 1
        truth[y + 1 : y + 1 + height, x + 1 : x + 1 + width][shape] = placed
        taken[y + 1 : y + 1 + height, x + 1 : x + 1 + width] |= shape | (apart == "boxes")
        if placed == count:
            break
    truth = truth[1:-1, 1:-1]
    bright = np.concatenate([[BACKGROUND], rng.integers(60, 250, placed)]).astype(np.uint8)
    return bright[truth][:, :, None], truth


def _shape(kind: int, side: int) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    middle = (side - 1) / 2
    if kind == 0:
        return (y - middle) ** 2 + (x - middle) ** 2 <= (side / 2) ** 2
    if kind == 1:
        return np.ones((side, max(side // 2, 4)), bool)
    if kind == 2:
        return (abs(y - middle) <= side / 8 + 1) | (abs(x - middle) <= side / 8 + 1)
    return abs(y - x) <= side // 6 + 1


def write_planted(folder: Path, size: tuple[int, int] = SIZE, **more: Any) -> np.ndarray:
    """``image.zarr`` and ``models.py``; returns the truth."""
    pixels, truth = plant(size, more.pop("count", 90), more.pop("seed", 0))
    write_zarr(folder / "image.zarr", pixels, **more)
    write_models(folder)
    return truth


def write_models(folder: Path) -> None:
    (folder / "models.py").write_text(MODELS)


def planned(folder: Path, model: str, objects: Any, tiling: gt.Tiling = TILING, **how: Any) -> Any:
    """A plan over ``image.zarr`` of a folder; `batch` and `score` for the model, the rest for the plan."""
    values = {name: how.pop(name) for name in ("batch", "score") if name in how}
    loaded = gt.load_model(f"{folder / 'models.py'}:{model}", **values)
    return gt.plan(how.pop("image", str(folder / "image.zarr")), loaded, tiling, objects=objects, **how)


def found(directory: Path) -> dict[str, str]:
    """Digests of the table and of the labels of a run."""
    files = {name: content for name, content in tree(directory).items() if name.startswith("prediction.zarr")}
    files["objects.parquet"] = (directory / "objects.parquet").read_bytes()
    return {name: hashlib.sha256(content).hexdigest()[:12] for name, content in files.items()}


def rows(table: Any) -> list[dict[str, Any]]:
    """Rows of a table of objects that can be compared."""
    return table.drop_columns([name for name in ("bbox",) if name in table.column_names]).to_pylist()


def truth_of(labels: np.ndarray) -> dict[tuple[int, int, int, int], tuple[int, float, float]]:
    """Box (xmin, ymin, xmax, ymax) to area and centroid (x, y, corner origin) of each label, by scipy."""
    from scipy import ndimage

    numbers = np.unique(labels)[1:]
    centres = ndimage.center_of_mass(labels > 0, labels, numbers)
    areas = np.bincount(labels.ravel())
    places = ndimage.find_objects(labels)
    result = {}
    for number, (y, x) in zip(numbers.tolist(), centres, strict=True):
        rows_, cols = places[number - 1]
        box = (cols.start, rows_.start, cols.stop, rows_.stop)
        assert box not in result, "two shapes have one box"
        result[box] = (int(areas[number]), x + 0.5, y + 0.5)
    return result


def boxes_of(table: Any) -> list[tuple[float, ...]]:
    """Boxes of a table, in its order."""
    return list(zip(*(table[name].to_pylist() for name in ("xmin", "ymin", "xmax", "ymax")), strict=True))


def same_partition(labels: np.ndarray, truth: np.ndarray) -> bool:
    """Whether two label images tell the same pixels apart."""
    pairs = np.unique(np.stack([labels.ravel().astype(np.int64), truth.ravel().astype(np.int64)]), axis=1)
    one, other = (len(np.unique(side)) for side in pairs)
    return pairs.shape[1] == one == other and [0, 0] in pairs.T.tolist()


def near(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-12, abs_tol=1e-9)
