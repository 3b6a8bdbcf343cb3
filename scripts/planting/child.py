"""One run over a field in a process of its own: ``python -m scripts.planting.child DIR --rows N --cols N ...``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import gigatile as gt
from gigatile.images.image import Image
from gigatile.plans.plan import Plan
from scripts.planting import models
from scripts.planting.field import BACKGROUND, Field, FieldSource

TILE, OVERLAP = 512, 32


def plan_of(field: Field, task: str, block: int | None, memory: str | None) -> Plan:
    """What is found in a field, and how."""
    tiling = gt.Tiling(tile=TILE, overlap=OVERLAP, border=f"constant:{BACKGROUND}", block=block)
    image = Image(FieldSource(field))
    if task == "detect":
        model = gt.load_model(models.boxes, scale=1 / 255)
        return gt.plan(image, model, tiling, objects=gt.Detect("nms", "ios"), memory=memory)
    return gt.plan(image, gt.load_model(models.labels, scale=1 / 255), tiling, objects=gt.Instances(), memory=memory)


def main(argv: Sequence[str]) -> int:
    """Run, and print what it took as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    for name in ("--rows", "--cols", "--seed", "--workers", "--block"):
        parser.add_argument(name, type=int)
    parser.add_argument("--task", choices=("detect", "instances"))
    parser.add_argument("--memory")
    asked = parser.parse_args(argv)
    plan = plan_of(Field(asked.rows, asked.cols, asked.seed), asked.task, asked.block, asked.memory)
    begin = time.monotonic()
    result = gt.run(plan, asked.out, workers=asked.workers)
    found = {
        "complete": result.complete,
        "block": plan.block[0],
        "blocks": plan.blocks.count,
        "projected": plan.memory.projected_bytes,
        "run_s": time.monotonic() - begin,
        "busy_s": dict(result.status.seconds),
    }
    json.dump(found, sys.stdout)
    return 0 if result.complete else 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
