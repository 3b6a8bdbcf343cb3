"""The finished run of one image, for tests that put it into cohorts."""

from tests.runs.conftest import folder, image, model, out, reference

__all__ = ["folder", "image", "model", "out", "reference"]
