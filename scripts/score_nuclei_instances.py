"""Scores of the pipelines for single nuclei on pictures that they were not trained on: whole, tiled, what was before.

::

    picture ─┬─ U-Net and components (nuclei/baseline.py)                         ─▶ baseline
             ├─ model.onnx on all of it, pipeline.yaml's postprocess on all of it ─▶ whole
             └─ gigatile run --pipeline PIPELINE --tile N                         ─▶ tiled     (with --tile N)

Fluorescence is given to pipelines/nuclei-fluo-instances, stained tissue to pipelines/nuclei-he-instances.
Cells, in which maps become labels, are about 1,024 px wide, so that of most pictures one cell is all; --cell N makes
them smaller, so that nuclei are cut and joined again.

Run it with ``python -m scripts.score_nuclei_instances FOLDER --baseline unet2d_nuclei_broad_dynamic.onnx --tile 256``,
FOLDER holding the ``.png`` and ``_labels.tif`` files that nuclei/pictures.py names. Ends with 1 where F1 at IoU 0.5,
pooled over the pictures of a kind, is not above the baseline's, or tiled is below whole. ``--pictures DIR`` draws
what was found over each picture: green where people drew it, magenta what was found.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from gigatile.objects.postprocess.method import Postprocess
from gigatile.objects.postprocess.parse import parse_postprocess
from gigatile.testing.instance_scores import DSB2018_THRESHOLDS, Counts, counted_at, mean_average_precision
from scripts.nuclei.baseline import baseline, session_of
from scripts.nuclei.pictures import HELD_OUT, KINDS, TRAIN, Picture, normalised, read

PIPELINES = Path(__file__).resolve().parent.parent / "pipelines"
FOLDERS = {"fluo": "nuclei-fluo-instances", "he": "nuclei-he-instances"}
"""The pipeline of each kind of pictures."""
NORMALISED: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.float32]]] = {
    "zscore": normalised,
    "none": lambda pixels: pixels.astype(np.float32) * np.float32(1 / 255),
}
MULTIPLE = 8
AP_AT = DSB2018_THRESHOLDS


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The parts of a pipeline that scoring the whole picture needs."""

    model: Path
    normalise: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    halo: int
    method: Postprocess

    @classmethod
    def of(cls, folder: Path) -> Pipeline:
        """Read pipeline.yaml."""
        keys = yaml.safe_load((folder / "pipeline.yaml").read_text())
        if keys["normalize"] not in NORMALISED:
            raise SystemExit(f"{folder}: scored with normalize: {' or '.join(NORMALISED)}, not {keys['normalize']}")
        method = parse_postprocess(keys["postprocess"])
        return cls(folder / keys["model"], NORMALISED[keys["normalize"]], keys["overlap"] // 2, method)

    def maps(self, picture: Picture) -> NDArray[np.float32]:
        """What the model says of the whole picture, shape (2, y, x).

        The picture is mirrored by the halo all around, and then on the right and at the bottom to a multiple of 8.
        """
        pixels = self.normalise(picture.pixels)
        height, width = pixels.shape[1:]
        sides = [(self.halo, self.halo + -(side + 2 * self.halo) % MULTIPLE) for side in (height, width)]
        padded = np.pad(pixels, ((0, 0), *sides), mode="reflect")
        maps = session_of(self.model).run(None, {"image": padded[None]})[0][0]
        return np.ascontiguousarray(maps[:, self.halo : self.halo + height, self.halo : self.halo + width])

    def whole(self, picture: Picture) -> NDArray[np.int32]:
        """Labels of the whole picture at once."""
        return self.method(self.maps(picture))


def tiled(folder: Path, source: Path, tile: int, cell: int) -> NDArray[Any]:
    """Labels that ``gigatile run`` writes with the pipeline in a folder, in tiles and cells of other sizes.

    Raises
    ------
    SystemExit
        The run fails; its message is on stderr.
    """
    import zarr

    from gigatile.cli.main import main as gigatile
    from gigatile.plans import finding

    # No option: for who runs a pipeline one size does.
    finding.CELL_PX = cell
    with tempfile.TemporaryDirectory() as out:
        pipeline = str(folder / "pipeline.yaml")
        words = ["run", str(source), "--pipeline", pipeline, "--tile", str(tile), "-o", f"{out}/run"]
        code = gigatile([*words, "--progress", "none", "--device", "cpu"])
        if code:
            raise SystemExit(f"gigatile {' '.join(words)} ended with {code}")
        return np.asarray(zarr.open_array(f"{out}/run/prediction.zarr/0", mode="r")[:])


@dataclass(slots=True)
class Table:
    """Counts of each way to find nuclei, picture by picture."""

    rows: dict[str, dict[str, tuple[Counts, ...]]] = field(default_factory=dict)
    """By way and name of the picture; one `Counts` for each of `AP_AT`."""

    def add(self, way: str, picture: Picture, found: NDArray[Any]) -> None:
        """Count one picture."""
        self.rows.setdefault(way, {})[picture.name] = counted_at(found, picture.labels, AP_AT)

    def f1(self, way: str, kind: str) -> float:
        """F1 at IoU 0.5, pooled over the pictures of a kind."""
        return self._pooled(way, kind).f1

    def lines(self) -> list[str]:
        """The table as Markdown."""
        lines = ["| pictures | way | F1@0.5 | AP@0.5:0.95 | PQ | tp | fp | fn |", "|---|---|---|---|---|---|---|---|"]
        names = [name for way in list(self.rows.values())[:1] for name in way]
        for group in (*KINDS, *names):
            for way in self.rows:
                pool = self._pooled(way, group)
                ap = mean_average_precision([c for n, c in self.rows[way].items() if n.startswith(group)])
                scores = f"{pool.f1:.3f} | {ap:.3f} | {pool.panoptic_quality:.3f}"
                lines.append(f"| {group} | {way} | {scores} | {pool.tp} | {pool.fp} | {pool.fn} |")
        return lines

    def _pooled(self, way: str, group: str) -> Counts:
        return sum((counts[0] for name, counts in self.rows[way].items() if name.startswith(group)), Counts())


def drawn(picture: Picture, found: NDArray[Any]) -> NDArray[np.uint8]:
    """The picture three times as large with outlines: green as drawn by people, magenta as found."""
    grow: Callable[[NDArray[Any]], NDArray[Any]] = lambda a: a.repeat(3, -2).repeat(3, -1)  # noqa: E731
    light = picture.pixels.astype(np.float32) / max(1.0, float(np.percentile(picture.pixels, 99.5)))
    image = np.moveaxis(grow(np.clip(light, 0, 1) * 255), 0, -1).astype(np.uint8)
    for labels, colour in ((picture.labels, (0, 230, 0)), (found, (255, 0, 255))):
        large = grow(np.asarray(labels))
        edge = np.zeros(large.shape, bool)
        edge[1:] |= large[1:] != large[:-1]
        edge[:, 1:] |= large[:, 1:] != large[:, :-1]
        image[edge] = colour
    return image


def scored(given: argparse.Namespace, names: Sequence[str]) -> Table:
    """Every way on every picture."""
    from PIL import Image

    table = Table()
    folders = {kind: given.pipelines / name for kind, name in FOLDERS.items()}
    pipelines = {kind: Pipeline.of(folder) for kind, folder in folders.items()}
    for name in names:
        picture = read(given.folder, name)
        table.add("baseline", picture, baseline(picture, given.baseline))
        found: NDArray[Any] = pipelines[picture.kind].whole(picture)
        table.add("whole", picture, found)
        if given.tile:
            found = tiled(folders[picture.kind], given.folder / f"{name}.png", given.tile, given.cell)
            table.add("tiled", picture, found)
        if given.pictures:
            given.pictures.mkdir(parents=True, exist_ok=True)
            Image.fromarray(drawn(picture, found)).save(given.pictures / f"{name}.png")
    return table


def main() -> None:
    """Score, print, and compare."""
    parser = argparse.ArgumentParser(description="Score the pipelines for single nuclei on held-out pictures.")
    parser.add_argument("folder", type=Path, help="pictures of DSB2018: NAME.png and NAME_labels.tif")
    parser.add_argument("--baseline", type=Path, required=True, help="unet2d_nuclei_broad_dynamic.onnx")
    parser.add_argument("--pipelines", type=Path, default=PIPELINES, help="folder with the folders of both")
    parser.add_argument("--tile", type=int, default=0, help="also run in tiles of this size")
    parser.add_argument(
        "--cell", type=int, default=1024, help="with --tile: side of cells, as near as whole chunks allow"
    )
    parser.add_argument("--pictures", type=Path, help="folder for drawings of what was found")
    parser.add_argument("--on", choices=["held-out", "train"], default="held-out")
    given = parser.parse_args()
    table = scored(given, HELD_OUT if given.on == "held-out" else TRAIN)
    print("\n".join(table.lines()))
    wrong = [f"{kind}: whole is not above baseline" for kind in KINDS if _not_above(table, kind)]
    if given.tile:
        wrong += [
            f"{kind}: tiled is below whole" for kind in KINDS if table.f1("tiled", kind) < table.f1("whole", kind)
        ]
    print("; ".join(wrong) or "every kind is above the baseline", file=sys.stderr)
    sys.exit(1 if wrong else 0)


def _not_above(table: Table, kind: str) -> bool:
    return table.f1("whole", kind) <= table.f1("baseline", kind)


if __name__ == "__main__":
    main()
