"""Which card belongs to what the user named as a model or pipeline: told by its content, not by its name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gigatile.errors import ModelError

if TYPE_CHECKING:
    from gigatile.models.card import ModelCard

CARD_SUFFIXES = {".yaml", ".yml", ".json"}
_KNOWN = "a bioimage.io rdf.yaml, a wsinfer config.json or a STAC item with mlm: fields"


def find_card(model: Any) -> ModelCard | None:
    """The card that a model comes with; None where there is none.

    Parameters
    ----------
    model : path, str or anything
        A card itself, or an ``.onnx`` file with metadata inside. Other models have none.

    Raises
    ------
    ModelError
        It is a card that we do not know, or one that asks for what we cannot do.
    UsageError
        It is damaged.
    """
    if not isinstance(model, (str, Path)):
        return None
    path = Path(model)
    suffix = path.suffix.lower()
    if suffix not in CARD_SUFFIXES | {".onnx"} or not path.is_file():
        return None
    if suffix == ".onnx":
        from gigatile.models.cards.onnx_metadata import onnx_card

        return onnx_card(path)
    card = card_in(path)
    if card is None:
        raise ModelError(f"model {path}", expected=_KNOWN, found="another file")
    return card


def card_in(path: Path) -> ModelCard | None:
    """The card in a YAML or JSON file; None if it is something else, such as a pipeline file.

    Raises
    ------
    ModelError, UsageError
        As `find_card`.
    """
    from gigatile.models.cards.text import json_mapping, yaml_mapping

    if path.suffix.lower() == ".json":
        content = json_mapping(path)
        if "spacing_um_px" in content or "patch_size_pixels" in content:
            from gigatile.models.cards.wsinfer import wsinfer_card

            return wsinfer_card(path, content)
        properties = content.get("properties")
        if isinstance(properties, dict) and any(str(key).startswith("mlm:") for key in properties):
            from gigatile.models.cards.mlm import mlm_card

            return mlm_card(path, content)
        return None
    content = yaml_mapping(path)
    if "format_version" not in content:
        return None
    from gigatile.models.cards.bioimage import bioimage_card

    return bioimage_card(path, content)
