"""Train the models of pipelines/nuclei-fluo-instances and nuclei-he-instances on half of the pictures of the 2018
Data Science Bowl (CC0).

::

    fluorescence: pictures + synthetic ones ─▶ samples ──▶ small U-Net ─▶ batch norm folded ─▶ model.onnx
                  (nuclei/pictures.py)   (nuclei/samples.py)  (nuclei/network.py)                  │ its weights
    stain:        haematoxylin of the same + clutter ─▶ samples ─▶ the same network, one channel ◀─┘ are the start
                  (nuclei/stain.py)                         └─▶ unmixing layers in front ─▶ model.onnx

Run it with ``python -m scripts.make_nuclei_instances_model fluorescence FOLDER``, then with ``stain``, FOLDER holding
the ``.png`` and ``_labels.tif`` files that nuclei/pictures.py names. Needs torch (CPU is enough), onnx, onnxruntime,
pillow, scipy and tifffile. The same seed on the same kind of CPU, library versions and number of threads gives the
same weights.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime
import torch

from scripts.nuclei.amounts import DARKEST, UNMIXING
from scripts.nuclei.network import Front, UNet, load, to_onnx
from scripts.nuclei.pictures import TRAIN, Picture, read
from scripts.nuclei.samples import Samples
from scripts.nuclei.stain import DEVIATION, MEAN, StainSamples

PIPELINES = Path(__file__).resolve().parent.parent / "pipelines"
FLUORESCENCE = PIPELINES / "nuclei-fluo-instances" / "model.onnx"
STAIN = Front(DARKEST, UNMIXING, MEAN, DEVIATION)
SEED = 2018
SIDE_PX = 128
BATCH = 8
DEPTH_WEIGHT = 2.0
FOLDED_BY_LESS = 1e-4
"""How much the graph may differ from the trained network on one batch."""


class Batches(Protocol):
    """An endless stream of samples."""

    def batch(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets of `count` samples."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What differs between the models of two pipelines."""

    pipeline: str
    samples: Callable[[Sequence[Picture], int, int], Batches]
    """Of pictures, a side in pixels and a seed."""
    inputs: int
    front: Front | None
    start: Path | None
    """Graph whose weights training starts from, with batch norm at rest; None: from noise."""
    steps: int
    peak_rate: float


RECIPES = {
    "fluorescence": Recipe("nuclei-fluo-instances", Samples, 3, None, None, 1200, 4e-3),
    "stain": Recipe("nuclei-he-instances", StainSamples, 1, STAIN, FLUORESCENCE, 500, 1.5e-3),
}


def train(recipe: Recipe, folder: Path, steps: int) -> UNet:
    """The trained network, in evaluation mode."""
    torch.manual_seed(SEED)
    samples = recipe.samples([read(folder, name) for name in TRAIN], SIDE_PX, SEED)
    network = UNet(recipe.inputs)
    if recipe.start:
        load(network.eval(), recipe.start)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=1e-3)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.peak_rate, total_steps=steps, pct_start=0.2)
    begin, total = time.monotonic(), 0.0
    for step in range(1, steps + 1):
        pixels, wanted = samples.batch(BATCH)
        found = loss(network(pixels), wanted)
        optimiser.zero_grad()
        found.backward()
        optimiser.step()
        rates.step()
        total += found.item()
        if step % 25 == 0:
            print(f"step {step}: loss {total / 25:.4f}, {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
            total = 0.0
    return network.eval()


def loss(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Cross entropy of both channels, above that of a perfect answer, and soft Dice of the first."""
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    least = torch.nn.functional.binary_cross_entropy(wanted, wanted, reduction="none")
    nucleus, depth = (entropy - least).mean((0, 2, 3))
    said = torch.sigmoid(logits[:, 0])
    common = (said * wanted[:, 0]).sum((1, 2))
    dice = 1 - (2 * common + 1) / ((said + wanted[:, 0]).sum((1, 2)) + 1)
    return nucleus + DEPTH_WEIGHT * depth + dice.mean()


def main() -> None:
    """Train, fold, compare, write."""
    parser = argparse.ArgumentParser(description="Train the model of a pipeline for single nuclei.")
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("folder", type=Path, help="pictures of DSB2018: NAME.png and NAME_labels.tif")
    parser.add_argument("--out", type=Path, help="instead of model.onnx of the pipeline")
    parser.add_argument("--steps", type=int, help="instead of those of the recipe")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    recipe = RECIPES[given.recipe]
    network = train(recipe, given.folder, given.steps or recipe.steps)
    compare(network)
    content = to_onnx(network, recipe.front).SerializeToString(deterministic=True)
    out = given.out or PIPELINES / recipe.pipeline / "model.onnx"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(content)
    print(f"{out}: {len(content)} bytes, {sum(p.numel() for p in network.parameters())} parameters")


def compare(network: UNet) -> None:
    """Refuse a network that its graph, without layers in front, differs from."""
    numbers = np.random.default_rng(0).normal(size=(1, network.inputs, 64, 96)).astype(np.float32)
    content = to_onnx(network).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        wanted = torch.sigmoid(network(torch.from_numpy(numbers))).numpy()
    apart = float(np.abs(session.run(None, {"image": numbers})[0] - wanted).max())
    if apart > FOLDED_BY_LESS:
        raise SystemExit(f"the graph differs from the network by {apart:.2g}")


if __name__ == "__main__":
    main()
