"""Boxes merged: seconds and peak memory of one merge of all, of the streamed merge, and of SAHI and torchvision.

The boxes: objects on a square, each found 10 times within a few pixels; or half of the boxes so, and half in crowds of
1,000. IoU 0.5, one class. Each measurement has a process of its own. Memory is what its peak adds to the boxes; the
streamed boxes are made block by block, so that there it is everything but Python, NumPy and what a small merge took.
"""

import argparse
import math
import multiprocessing
import platform
import time
from pathlib import Path

import numpy as np

from gigatile.objects.boxes import Boxes
from gigatile.objects.match import Matching
from gigatile.objects.merge import Merge, split
from gigatile.objects.seam_boxes import SeamBoxes

BLOCK = 4096
REACH = 64
"""More than half of the largest box: what a block finds has its centre in it."""
MATCHING = Matching("iou", 0.5)
KINDS = {"clusters of 10": (10, 0), "half in crowds of 1,000": (10, 1000)}
PEERS = ("sahi NMS", "sahi GREEDYNMM", "torchvision batched_nms")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boxes", type=int, default=1_000_000)
    parser.add_argument("--peer-boxes", type=int, default=100_000, help="for the peers, before they get all boxes")
    parser.add_argument("--limit", type=float, default=60, help="seconds for a measurement, its boxes included")
    parser.add_argument("--only", choices=["streamed"], help="the streamed merge and nothing else")
    args = parser.parse_args()
    print(f"Python {platform.python_version()}, numpy {np.__version__}, {versions()}")
    print(f"{'':24} {'boxes':>10} {'s':>8} {'CPU s':>8} {'MB':>8} {'left':>9} {'held':>7}")
    for kind in KINDS:
        print(kind)
        if args.only:
            report("streamed nms", args.boxes, measured("streamed nms", kind, args.boxes, args.limit))
            continue
        ours = {}
        for name in ("global nms", "global nmm", "streamed nms"):
            ours[name] = measured(name, kind, args.boxes, args.limit)
            report(name, args.boxes, ours[name])
        if ours["global nms"].get("left") != ours["streamed nms"].get("left"):
            raise SystemExit("STREAMED AND GLOBAL DIFFER")
        for size in sorted({args.peer_boxes, args.boxes}):
            compare(kind, size, args.limit)
    return 0


def compare(kind, size, limit):
    """The peers, each beside the same merge of ours."""
    ours = {name: measured(name, kind, size, limit) for name in ("global nms", "global nmm")}
    for name in PEERS:
        found = measured(name, kind, size, limit)
        report(name, size, found)
        mine = ours["global nmm" if "NMM" in name else "global nms"]
        if "s" in found and "s" in mine:
            ratio, less = found["cpu"] / mine["cpu"], found["mb"] / mine["mb"]
            print(f"{'':24} gigatile {mine['s']:.2f} s, CPU {mine['cpu']:.2f} s, {mine['mb']:.0f} MB", end="")
            print(f": x {ratio:.1f} CPU, x {less:.1f} memory; leaves {mine['left']:,}")


def report(name, size, found):
    if "s" not in found:
        print(f"{name:24} {size:10,} {found['missing']}", flush=True)
        return
    held = f"{found['held']:7,}" if "held" in found else ""
    columns = f"{found['boxes']:10,} {found['s']:8.2f} {found['cpu']:8.2f} {found['mb']:8.0f} {found['left']:9,}"
    print(f"{name:24} {columns} {held}".rstrip(), flush=True)


def versions():
    """Of the peers that are here."""
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for name in ("sahi", "torchvision"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)


def measured(name, kind, size, limit):
    """One merge in a process of its own, which ends with the time it gets."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        try:
            return pool.apply_async(work, (name, kind, size)).get(limit)
        except multiprocessing.TimeoutError:
            return {"missing": f"more than {limit:.0f} s"}


def work(name, kind, size):
    """Seconds, CPU seconds, MB beyond the boxes, and how many boxes are left."""
    if name == "streamed nms":
        streamed(kind, 1000)
        before = reset()
        return streamed(kind, size) | {"mb": memory("VmHWM") - before}
    try:
        call = Merge(name.removeprefix("global "), MATCHING) if name.startswith("global") else peer(name)
    except ImportError as error:
        return {"missing": f"not here: {error}"}
    side = blocks(size)
    boxes = Boxes.joined([of_block(kind, size, row, col) for row in range(side) for col in range(side)])
    # Imports and threads of the first call do not count.
    call(*given(name, boxes.take(slice(0, 100))))
    ready, count = given(name, boxes), len(boxes)
    del boxes
    before = reset()
    with (clock := Clock()):
        left = len(call(*ready))
    mb = memory("VmHWM") - before
    return {"s": clock.wall, "cpu": clock.cpu, "mb": mb, "left": left, "boxes": count}


def reset():
    """Start the peak anew; the MB in use."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def memory(name):
    """In MB, of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1e3


def blocks(size):
    """Along a side of the image: with 600 boxes a megapixel, 10,000 a block."""
    return max(round(math.sqrt(size / 600) * 1000 / BLOCK), 1)


def of_block(kind, size, row, col):
    """The boxes whose centres lie in a block: of its own objects, and of its neighbours' that jitter over the edge."""
    side = blocks(size)
    near = [(r, c) for r in range(row - 1, row + 2) for c in range(col - 1, col + 2) if 0 <= r < side and 0 <= c < side]
    drawn = [drawn_in(kind, size, *at) for at in near]
    centres, sides, scores = (np.concatenate(part) for part in zip(*drawn, strict=True))
    inside = ((np.clip(centres // BLOCK, 0, side - 1)) == [col, row]).all(axis=1)
    centres, sides = centres[inside], sides[inside]
    places = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
    return Boxes(places, scores[inside], np.zeros(len(places), np.int32))


def drawn_in(kind, size, row, col):
    """Centres, sides and scores of the boxes of the objects that a block has."""
    one, crowd = KINDS[kind]
    count = size // blocks(size) ** 2
    groups = {one: count // 2 // one, crowd: count // 2 // crowd} if crowd else {one: count // one}
    each = np.repeat(list(groups), list(groups.values()))
    random = np.random.default_rng([size, row, col])
    centres = np.repeat(random.uniform(0, BLOCK, (len(each), 2)) + np.array((col, row)) * BLOCK, each, axis=0)
    sides = np.repeat(random.uniform(20, 60, (len(each), 2)), each, axis=0)
    sides *= random.uniform(0.9, 1.1, sides.shape)
    return centres + random.normal(0, 3, sides.shape), sides, random.random(len(sides), np.float32)


def interior(row, col, side):
    """Of a block: where nothing that another block finds can lie."""
    return (
        col * BLOCK + REACH if col else -math.inf,
        row * BLOCK + REACH if row else -math.inf,
        (col + 1) * BLOCK - REACH if col < side - 1 else math.inf,
        (row + 1) * BLOCK - REACH if row < side - 1 else math.inf,
    )


def streamed(kind, size):
    """Block by block; closed boxes are counted and let go, as a run writes them into parts."""
    merge, side, clock = Merge("nms", MATCHING), blocks(size), Clock()
    seam, left, held, count = SeamBoxes(merge, 4), 0, 0, 0
    for row in range(side):
        waiting = []
        for col in range(side):
            found = of_block(kind, size, row, col)
            with clock:
                closed, part = split(found, merge, interior(row, col, side))
            count, left = count + len(found), left + len(closed)
            waiting.append(part)
        with clock:
            opened = Boxes.joined(waiting)
            held = max(held, len(seam.held) + len(opened))
            left += len(seam.add(opened, (row + 1) * BLOCK - REACH))
    with clock:
        left += len(seam.finish())
    return {"left": left, "held": held, "boxes": count, "s": clock.wall, "cpu": clock.cpu}


class Clock:
    """Adds up what is done inside of it."""

    wall = cpu = 0.0

    def __enter__(self):
        self.started = time.perf_counter(), time.process_time()

    def __exit__(self, *_):
        self.wall += time.perf_counter() - self.started[0]
        self.cpu += time.process_time() - self.started[1]


def peer(name):
    """A peer's function of what `given` makes."""
    if name == "torchvision batched_nms":
        from torchvision.ops import batched_nms

        return lambda boxes, scores, classes: batched_nms(boxes, scores, classes, MATCHING.threshold)
    from sahi.postprocess import backends, combine

    # Its fastest without a GPU and without numba.
    backends.set_postprocess_backend("numpy")
    function = combine.batched_nms if name == "sahi NMS" else combine.batched_greedy_nmm
    return lambda table: function(table, "IOU", MATCHING.threshold)


def given(name, boxes):
    """Boxes as that merge takes them."""
    if name.startswith("global"):
        return (boxes,)
    if name == "torchvision batched_nms":
        import torch

        places, classes = torch.from_numpy(boxes.places), torch.from_numpy(boxes.classes.astype(np.int64))
        return places, torch.from_numpy(boxes.scores.astype(np.float64)), classes
    table = np.concatenate([boxes.places, boxes.scores[:, None], boxes.classes[:, None]], axis=1)
    return (table,)


if __name__ == "__main__":
    raise SystemExit(main())
