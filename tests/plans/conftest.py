"""Plans are made for a process of a fixed size: the one that runs the tests grows from test to test."""

from __future__ import annotations

import pytest

BASE_BYTES = 150 * 2**20


@pytest.fixture(autouse=True)
def a_small_process(monkeypatch):
    monkeypatch.setattr("gigatile.plans.build.base_bytes", lambda: BASE_BYTES)
