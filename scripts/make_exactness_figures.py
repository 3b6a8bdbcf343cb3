"""Draw docs/figures/seam-score.svg and difference.svg: a real U-Net on a real picture as its overlap is cut.

::

    trim                  each pixel from one tile
    hann                  ramps over the whole overlap, margin 0: what most tools do
    hann in the margin    the same halo; only its last 8 px blend, what lies beyond is never used

Needs matplotlib and the test data (``GIGATILE_TEST_DATA``, or ``../shared/data`` beside the checkout); takes some
minutes. The nuclei U-Net has a radius of 58 px and an alignment of 8; tiles are 256 px.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import matplotlib as mpl
import numpy as np
from probe_table import DATA, in_tiles, nuclei, on_the_whole

import gigatile as gt
from gigatile.models.load import probe

FIGURES = Path(__file__).resolve().parents[1] / "docs" / "figures"
MODEL = DATA / "models/unet2d_nuclei_broad_dynamic.onnx"
PICTURE = "gt_nuclei_dsb2018/fluo_696x520_a486f6ed4b.png"
TILE, UNIT, EDGE = 256, 8, 64
"""Pixels nearer than `EDGE` to the border of the picture are left out: there the halo decides what is mirrored."""
FLOOR = 1e-9
"""Where the plots put 0."""
CURVES = {"trim": "#1b6ca8", "hann": "#c1440e", "hann in the margin": "#3a7d44"}


def tilings(halo: int) -> dict[str, gt.Tiling]:
    """The three ways to use a halo."""
    return {
        "trim": gt.Tiling(TILE, 2 * halo, 0, "trim"),
        "hann": gt.Tiling(TILE, 2 * halo, 0, "hann"),
        "hann in the margin": gt.Tiling(TILE, 2 * halo, halo - UNIT, "hann"),
    }


def measured() -> dict[str, list[tuple[int, float, float]]]:
    """Overlap, seam score and largest difference to the whole picture, by curve."""
    pixels = nuclei(PICTURE)
    expected = on_the_whole(MODEL, pixels, EDGE, probe(MODEL), UNIT)[:, EDGE:-EDGE, EDGE:-EDGE]
    points: dict[str, list[tuple[int, float, float]]] = {name: [] for name in CURVES}
    for halo in range(UNIT, 81, UNIT):
        for name, tiling in tilings(halo).items():
            with tempfile.TemporaryDirectory() as folder:
                result = in_tiles(MODEL, pixels, tiling, Path(folder) / "out")
                got = result.prediction[:, EDGE:-EDGE, EDGE:-EDGE]
                score = float(result.status.to_json()["seam_score"])
            points[name].append((2 * halo, score, float(np.abs(got - expected).max())))
        sys.stdout.write(f"overlap {2 * halo}: " + ", ".join(f"{n} {p[-1][1:]}" for n, p in points.items()) + "\n")
        sys.stdout.flush()
    return points


def draw(points: dict[str, list[tuple[int, float, float]]], which: int, title: str, path: Path) -> None:
    """One figure: overlap against the score (1) or the difference (2), on a scale of decades with 0 at its foot."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.6))
    for name, colour in CURVES.items():
        x = [point[0] for point in points[name]]
        y = [max(point[which], FLOOR) for point in points[name]]
        axes.plot(x, y, "o-", label=name, color=colour, markersize=4, linewidth=1.4)
    axes.axvline(2 * 58, color="#888888", linewidth=0.8, linestyle=":")
    axes.annotate("2 x radius", (2 * 58 + 2, 2e-5), fontsize=8, color="#555555")
    axes.set_yscale("log")
    ticks = [FLOOR, 1e-7, 1e-5, 1e-3, 1e-1]
    axes.set_yticks(ticks, ["0", *(f"{tick:.0e}" for tick in ticks[1:])])
    axes.set_xlabel("overlap, px")
    axes.set_ylabel(title)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Measure once, draw twice; the same figures give the same bytes."""
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "gigatile"
    FIGURES.mkdir(parents=True, exist_ok=True)
    points = measured()
    draw(points, 1, "seam score", FIGURES / "seam-score.svg")
    draw(points, 2, "largest difference to the whole", FIGURES / "difference.svg")


if __name__ == "__main__":
    main()
