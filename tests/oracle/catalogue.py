"""Models of known receptive field, and some that have none."""

from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from .graphs import Graph, Maps

Make = Callable[[Graph], Maps]


class Known(NamedTuple):
    """A graph, and what it comes to by hand."""

    make: Make
    radius: tuple[int, int]
    """Along y and x."""
    alignment: int = 1
    scale: Fraction | int = 1
    crop: int = 0
    multiple: int = 1

    @property
    def halo(self) -> int:
        """Least halo over the radius that is a whole number of alignments beyond what is cut off."""
        return self.crop + -(-max(max(self.radius) - self.crop, 0) // self.alignment) * self.alignment


def stack(*kernels: int | tuple[int, int], dilation: int = 1, valid: bool = False):
    def make(g: Graph) -> Maps:
        x = g.conv(g.input, 2, kernels[0], dilation=dilation, valid=valid)
        for kernel in kernels[1:]:
            x = g.conv(g.relu(x), 2, kernel, dilation=dilation, valid=valid)
        return x

    return make


def encoder(factor: int, kernel: int):
    """A strided convolution, and back by nearest upsampling."""
    return lambda g: g.nearest(g.conv(g.input, 2, kernel, stride=factor), factor)


def valid_and_pooled(g: Graph) -> Maps:
    """As the first U-Net was: no padding anywhere, so that the crop is no multiple of the alignment."""
    x = g.conv(g.pool(g.conv(g.input, 2, valid=True), 2), 2, valid=True)
    return g.conv(g.nearest(x, 2), 2, 5, valid=True)


HALF, QUARTER = Fraction(1, 2), Fraction(1, 4)
KNOWN = {
    "1x1": Known(stack(1), (0, 0)),
    "3x3": Known(stack(3), (1, 1)),
    "three of 3x3": Known(stack(3, 3, 3), (3, 3)),
    "5x5 and 7x7": Known(stack(5, 7), (5, 5)),
    "3x3 dilated by 4": Known(stack(3, 3, dilation=4), (8, 8)),
    "7x3 and 3x1": Known(stack((7, 3), (3, 1)), (4, 1)),
    "1x9": Known(stack((1, 9)), (0, 4)),
    "valid 5x5 and 3x3": Known(stack(5, 3, valid=True), (3, 3), 1, 1, 3, 1),
    "valid and pooled": Known(valid_and_pooled, (6, 6), 2, 1, 5, 2),
    "stride 2": Known(encoder(2, 3), (2, 2), 2, 1, 0, 2),
    "stride 4": Known(encoder(4, 5), (5, 5), 4, 1, 0, 4),
    "stride 2, bilinear": Known(lambda g: g.bilinear(g.conv(g.input, 2, 5, stride=2)), (4, 4), 2, 1, 0, 2),
    "stride 2, transposed": Known(lambda g: g.transposed(g.conv(g.input, 2, stride=2), 2, 4, 2), (3, 3), 2, 1, 0, 2),
    "max-pooling by 2": Known(lambda g: g.nearest(g.conv(g.pool(g.conv(g.input, 2), 2), 2), 2), (4, 4), 2, 1, 0, 2),
    "mean-pooling by 3": Known(lambda g: g.nearest(g.pool(g.input, 3, "AveragePool"), 3), (2, 2), 3, 1, 0, 3),
    "U-Net of depth 1": Known(lambda g: g.unet(1), (5, 5), 2, 1, 0, 2),
    "U-Net of depth 2": Known(lambda g: g.unet(2), (13, 13), 4, 1, 0, 4),
    "U-Net of depth 3": Known(lambda g: g.unet(3), (29, 29), 8, 1, 0, 8),
    "U-Net of depth 4": Known(lambda g: g.unet(4), (61, 61), 16, 1, 0, 16),
    "twice the size": Known(lambda g: g.depth_to_space(g.conv(g.relu(g.conv(g.input, 4)), 4), 2), (2, 2), 1, 2, 0, 1),
    "three times the size": Known(lambda g: g.depth_to_space(g.conv(g.input, 9), 3), (1, 1), 1, 3, 0, 1),
    "half the size": Known(lambda g: g.conv(g.relu(g.conv(g.input, 2)), 2, 5, stride=2), (3, 3), 2, HALF, 0, 2),
    "half, by pooling": Known(lambda g: g.pool(g.conv(g.input, 2), 2), (1, 1), 2, HALF, 0, 2),
    "quarter of the size": Known(lambda g: g.conv(g.conv(g.input, 2, stride=2), 2, stride=2), (3, 3), 4, QUARTER, 0, 4),
}

GLOBAL = {
    "instance norm": lambda g: g.conv(g.instance_norm(g.conv(g.input, 2)), 1),
    "squeeze and excitation": lambda g: g.squeeze(g.conv(g.input, 2)),
    "attention": lambda g: g.nearest(g.attention(g.conv(g.pool(g.input, 8), 2)), 8),
}
"""Every output pixel depends on the whole tile."""
