"""Which libraries take part in a run: their versions can change the last bits of a result."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("gigatile", "numpy", "zarr", "tifffile", "imagecodecs", "numcodecs", "onnxruntime", "dask")


def versions() -> dict[str, str]:
    """Version of each package that is there, and of Python."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    # Looked up once: it reads files of every package, and is asked for with each image.
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
