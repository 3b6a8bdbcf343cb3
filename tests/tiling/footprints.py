"""Continuing the valid pixels, one pixel after the other as the words say it; and footprints to try it on."""

import numpy as np
from hypothesis import strategies as st


def reference(pixels, valid, rule, reach, value=0):
    """The whole image, filled along its rows and then along its columns.

    Parameters
    ----------
    pixels : ndarray, shape (c, y, x)
    valid : ndarray of bool, shape (y, x)
    rule : str
        ``reflect``, ``symmetric``, ``edge`` or ``constant``.
    """
    filled, known = pixels.copy(), valid.copy()
    for row in range(valid.shape[0]):
        _line(filled[:, row], known[row], rule, reach, value)
    for col in range(valid.shape[1]):
        _line(filled[:, :, col], known[:, col], rule, reach, value)
    return filled


def _line(pixels, known, rule, reach, value):
    """One line of pixels (c, n) in place."""
    before = known.copy()
    stored = pixels.copy()
    for at in np.flatnonzero(~before):
        for distance in range(1, reach + 1):
            near = [edge for edge in (at - distance, at + distance) if 0 <= edge < len(before) and before[edge]]
            if near:
                start, padded = _padded(stored, before, near[0], rule, value)
                pixels[:, at] = padded[:, at - start + len(before)]
                known[at] = True
                break


def _padded(stored, before, edge, rule, value):
    """Where the run begins that the edge belongs to, and numpy's pad of it, by the length of the line."""
    start = stop = edge
    while start > 0 and before[start - 1]:
        start -= 1
    while stop + 1 < len(before) and before[stop + 1]:
        stop += 1
    run, more = stored[:, start : stop + 1], len(before)
    extra = {"constant_values": value} if rule == "constant" else {}
    return start, np.pad(run, ((0, 0), (more, more)), mode=rule, **extra)


def turned_rectangle(shape, centre, sides, degrees):
    """A scene as it lies in its file: True inside."""
    y, x = np.indices(shape) - np.reshape(centre, (2, 1, 1))
    turn = np.deg2rad(degrees)
    along, across = np.cos(turn) * y + np.sin(turn) * x, np.cos(turn) * x - np.sin(turn) * y
    return (abs(along) <= sides[0] / 2) & (abs(across) <= sides[1] / 2)


@st.composite
def footprints(draw, shape):
    """Which pixels are valid: noise of any density, blobs, turned rectangles, one pixel, all, none."""
    kind = draw(st.sampled_from(["noise", "blobs", "scene", "pixel", "all", "none", "holes"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    if kind == "noise":
        return rng.random(shape) < draw(st.sampled_from([0.02, 0.2, 0.5, 0.9]))
    if kind in ("blobs", "holes"):
        y, x = np.indices(shape)
        spots = rng.random((4, 3)) * [shape[0], shape[1], max(shape) / 3]
        inside = np.any([(y - a) ** 2 + (x - b) ** 2 <= r**2 for a, b, r in spots], axis=0)
        return inside if kind == "blobs" else ~inside
    if kind == "scene":
        centre, sides = rng.random(2) * shape, rng.random(2) * max(shape) + 1
        return turned_rectangle(shape, centre, sides, draw(st.integers(0, 90)))
    valid = np.full(shape, kind == "all")
    if kind == "pixel":
        valid[rng.integers(shape[0]), rng.integers(shape[1])] = True
    return valid
