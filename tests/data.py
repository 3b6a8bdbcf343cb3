"""Real test data, read in place; tests skip with the reason where it is absent."""

import os
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("GIGATILE_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")


def data(path: str) -> Path:
    """A file of the test data; skips the test that asks for one that is not there."""
    found = ROOT / path
    if not found.exists():
        pytest.skip(f"no {path} in {ROOT} (set GIGATILE_TEST_DATA to a folder that has the test data)")
    return found
