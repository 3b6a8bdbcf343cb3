"""Train pipelines/nuclei-instances/model.onnx on half of the pictures of the 2018 Data Science Bowl (CC0).

::

    pictures + synthetic ones ─▶ samples ─▶ small U-Net, batch norm ─▶ folded ─▶ model.onnx
    (nuclei/pictures.py)       (nuclei/samples.py)  (nuclei/network.py)

Run it with ``python -m scripts.make_nuclei_instances_model FOLDER``, FOLDER holding the ``.png`` and ``_labels.tif``
files that nuclei/pictures.py names. Needs torch (CPU is enough), onnx, onnxruntime, pillow, scipy and tifffile. The
same seed on the same kind of CPU, library versions and number of threads gives the same weights.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from scripts.nuclei.network import UNet, to_onnx
from scripts.nuclei.pictures import TRAIN, read
from scripts.nuclei.samples import Samples

OUT = Path(__file__).resolve().parent.parent / "pipelines" / "nuclei-instances" / "model.onnx"
SEED = 2018
SIDE_PX = 128
BATCH = 8
STEPS = 1200
PEAK_RATE = 4e-3
DEPTH_WEIGHT = 2.0
FOLDED_BY_LESS = 1e-4
"""How much the graph may differ from the trained network on one batch."""


def train(folder: Path, steps: int) -> UNet:
    """The trained network, in evaluation mode."""
    torch.manual_seed(SEED)
    samples = Samples([read(folder, name) for name in TRAIN], SIDE_PX, SEED)
    network = UNet()
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=1e-3)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_RATE, total_steps=steps, pct_start=0.2)
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
    parser = argparse.ArgumentParser(description="Train the model of pipelines/nuclei-instances.")
    parser.add_argument("folder", type=Path, help="pictures of DSB2018: NAME.png and NAME_labels.tif")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    network = train(given.folder, given.steps)
    content = to_onnx(network).SerializeToString(deterministic=True)
    pixels = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 3, 64, 96)).astype(np.float32))
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        wanted = torch.sigmoid(network(pixels)).numpy()
    apart = float(np.abs(session.run(None, {"image": pixels.numpy()})[0] - wanted).max())
    if apart > FOLDED_BY_LESS:
        raise SystemExit(f"the graph differs from the network by {apart:.2g}")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_bytes(content)
    print(f"{given.out}: {len(content)} bytes, {sum(p.numel() for p in network.parameters())} parameters")


if __name__ == "__main__":
    main()
