"""COCO: one JSON document of an image, its annotations and its categories, for training and scoring.

::

    {"info": {...}, "images": [{"id": 1, ...}],
     "annotations": [
       {"id": 1, "image_id": 1, "category_id": 0, "bbox": [x, y, width, height], "area": ..., "iscrowd": 0,
        "segmentation": [[x, y, x, y, ...], ...]         polygons, one a part
                     or {"size": [h, w], "counts": []}   run lengths, where there are holes
        "score": 0.9}, ...],
     "categories": [{"id": 0, "name": ...}, ...]}

Everything counts level-0 pixels, of scenes too. Sources: https://cocodataset.org/#format-data; pycocotools'
``annToRLE``, which takes polygons and run lengths whatever ``iscrowd`` says.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gigatile.exports.json_shapes import Outlines, coco_polygons
from gigatile.exports.object_table import Geometries, ObjectTable, shapes_of, short_numbers
from gigatile.exports.run_lengths import run_lengths
from gigatile.exports.target import new_file
from gigatile.images.info import Transform

_DECIMALS = 3
_HEAD = b'{"info":{"description":"gigatile export"'
_IMAGE = 1
"""Its id: a file is about one image."""


def export_coco(table: ObjectTable, path: Path) -> None:
    """Write objects as COCO; ``category_id`` is the number of the class.

    Memory bound
    ------------
    One batch, about ten times while it becomes text; 8 bytes a column that a shape with holes crosses.

    Parameters
    ----------
    table : ObjectTable
    path : Path
        Appears, whole, at the end.

    Raises
    ------
    BlockError, StorageError
        The table cannot be read, or the file not written.
    """
    import msgspec

    encode = msgspec.json.Encoder().encode
    height, width = table.metadata.shape
    image = {"id": _IMAGE, "file_name": table.image, "height": height, "width": width}
    classes = set(range(len(table.metadata.class_names)))
    with new_file(path, _is_exported) as file:
        file.write(_HEAD + b'},"licenses":[],"images":[' + encode(image) + b'],"annotations":[\n')
        first = True
        for batch in table.batches():
            annotations = list(_annotations(table, batch))
            classes.update(annotation["category_id"] for annotation in annotations)
            if annotations:
                file.write((b"" if first else b",\n") + b",\n".join(map(encode, annotations)))
                first = False
        file.write(b'\n],"categories":' + encode([_category(table, number) for number in sorted(classes)]) + b"}\n")


def _category(table: ObjectTable, number: int) -> dict[str, Any]:
    name, colour = table.label_of(number), table.colour_of(number)
    return {"id": number, "name": name, "supercategory": "", "color": colour}


def _annotations(table: ObjectTable, batch: Any) -> Iterator[dict[str, Any]]:
    import shapely

    shapes = _in_pixels(shapes_of(batch), table.metadata.transform)
    areas = batch.column("area").to_numpy() if "area" in batch.schema.names else shapely.area(shapes)
    xmin, ymin, xmax, ymax = (batch.column(name).to_numpy() for name in ("xmin", "ymin", "xmax", "ymax"))
    boxes = np.round(np.stack([xmin, ymin, xmax - xmin, ymax - ymin], axis=1), _DECIMALS).tolist()
    segmentations = _segmentations(shapes, table.metadata.shape)
    ids, numbers = batch.column("id").to_pylist(), batch.column("class").to_pylist()
    scores, areas = short_numbers(batch.column("score")), np.round(areas, _DECIMALS).tolist()
    for at, number in enumerate(ids):
        found = {
            "id": number,
            "image_id": _IMAGE,
            "category_id": numbers[at],
            "bbox": boxes[at],
            "area": areas[at],
            "iscrowd": 0,
            "segmentation": segmentations[at],
        }
        yield found if scores[at] is None else {**found, "score": scores[at]}


def _in_pixels(shapes: Geometries, transform: Transform | None) -> Geometries:
    """Shapes back in level-0 pixels, to a thousandth."""
    import shapely

    a, b, c, d, e, f = transform or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    back = np.linalg.inv(np.array([[a, b], [d, e]])).T
    pixels: Geometries = shapely.transform(shapes, lambda xy: np.round((xy - np.array([c, f])) @ back, _DECIMALS))
    return pixels


def _segmentations(shapes: Geometries, image: tuple[int, int]) -> list[Any]:
    """Polygons without holes as lists of x, y; all others as run lengths."""
    import msgspec

    outlines = Outlines.of(shapes)
    ring_count = np.diff(outlines.parts[outlines.shapes])
    found: list[Any] = [msgspec.Raw(text) for text in coco_polygons(outlines)]
    for at in np.flatnonzero(ring_count > np.diff(outlines.shapes)).tolist():
        rings = [outlines.ring(number).astype(np.float64) for number in outlines.rings_of(at)]
        found[at] = {"size": list(image), "counts": run_lengths(rings, image)}
    return found


def _is_exported(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_HEAD)) == _HEAD
