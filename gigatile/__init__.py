"""gigatile: run a model over images that do not fit in memory.

The public names, imported when they are first used, so that ``import gigatile`` and the command line are fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gigatile.engine.lazy import map_overlap as map_overlap
    from gigatile.engine.sliding import Stitcher as Stitcher
    from gigatile.engine.sliding import tiles as tiles
    from gigatile.exports.label import label as label
    from gigatile.images.image import Image as Image
    from gigatile.images.open import open as open
    from gigatile.models.load import load_model as load_model
    from gigatile.models.load import probe as probe
    from gigatile.plans.build import plan as plan
    from gigatile.plans.finding import Detect as Detect
    from gigatile.plans.finding import Instances as Instances
    from gigatile.plans.plan import Plan as Plan
    from gigatile.runs.runner import Result as Result
    from gigatile.runs.runner import run as run
    from gigatile.tiling.region import Region as Region
    from gigatile.tiling.tiling import Tiling as Tiling

_HOME = {
    "Detect": "gigatile.plans.finding",
    "Image": "gigatile.images.image",
    "Instances": "gigatile.plans.finding",
    "Plan": "gigatile.plans.plan",
    "Region": "gigatile.tiling.region",
    "Result": "gigatile.runs.runner",
    "Stitcher": "gigatile.engine.sliding",
    "Tiling": "gigatile.tiling.tiling",
    "label": "gigatile.exports.label",
    "load_model": "gigatile.models.load",
    "map_overlap": "gigatile.engine.lazy",
    "open": "gigatile.images.open",
    "plan": "gigatile.plans.build",
    "probe": "gigatile.models.load",
    "run": "gigatile.runs.runner",
    "tiles": "gigatile.engine.sliding",
}
__all__ = [*_HOME, "__version__"]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'gigatile' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value
