"""STAC items of the Machine Learning Model extension (``mlm:`` fields).

Source: https://github.com/stac-extensions/mlm, README of v1.3 to v1.5: Model Input, Value Scaling, Model Output and
Model Asset Objects; class colours are ``color_hint`` of the Classification extension, pixel sizes ``gsd`` and
``spatial_resolution``, in metres.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gigatile.errors import ModelError
from gigatile.models.card import ModelCard
from gigatile.models.cards.fields import Fields
from gigatile.models.cards.steps import Scaling
from gigatile.models.cards.text import existing_file

_AXES = {"batch": "b", "bands": "c", "channel": "c", "channels": "c", "height": "y", "width": "x", "y": "y", "x": "x"}
_TASK = "semantic-segmentation"
_SHA256 = "1220"
"""Prefix of a sha256 of 32 bytes as a multihash, which `file:checksum` is."""


def mlm_card(path: Path, content: dict[str, Any]) -> ModelCard:
    """The card in a STAC item that has been read.

    Raises
    ------
    ModelError
        A damaged field, a missing or changed file, or something that we cannot do.
    """
    item = Fields(content, str(path))
    fields = item.mapping("properties")
    given = fields.only("mlm:input", "since one image goes in")
    got = fields.only("mlm:output", "since one result is written")
    tasks = got.texts("tasks") or fields.texts("mlm:tasks")
    if _TASK not in tasks:
        raise ModelError(got.at("tasks"), expected=_TASK, found=", ".join(tasks) or "none")
    asset = _asset(item)
    shape = _shape(given)
    scaling = _scaling(given, shape.get("c", -1))
    names, colors = _classes(got)
    bands = _bands(given, (fields, asset))
    size, notes = _pixel_size(fields, asset)
    if got.has("post_processing_function"):
        notes += ("post_processing_function is not carried out: the result is what the model gives",)
    if given.has("description"):
        notes += (f"input: {given.text('description')}",)
    y, x = shape.get("y", -1), shape.get("x", -1)
    return ModelCard(
        kind="STAC MLM",
        path=path,
        model=_model(path, asset),
        name=fields.text("mlm:name", ""),
        scale=scaling.scale,
        mean=scaling.mean,
        std=scaling.std,
        output="classes" if names else "raw",
        tile=(y, x) if y > 0 and x > 0 else None,
        pixel_size=size,
        unit="metre",
        channels=len(bands) or (shape["c"] if shape.get("c", -1) > 0 else None),
        bands=bands,
        class_names=names,
        class_colors=colors,
        notes=notes,
    )


def _asset(item: Fields) -> Fields:
    assets = item.mapping("assets")
    models = [assets.mapping(key) for key in assets.content]
    models = [asset for asset in models if "mlm:model" in asset.texts("roles")]
    if len(models) != 1:
        raise ModelError(assets.where, expected="one asset with the role mlm:model", found=str(len(models)))
    return models[0]


def _model(path: Path, asset: Fields) -> Path:
    checksum = asset.text("file:checksum", "").lower()
    sha = checksum.removeprefix(_SHA256) if checksum.startswith(_SHA256) and len(checksum) == 68 else ""
    return existing_file(path, asset.text("href").removeprefix("./"), asset.where.removeprefix(f"{path}: "), sha)


def _shape(given: Fields) -> dict[str, int]:
    """Size by axis; -1 where it is free."""
    structure = given.mapping("input")
    order, sizes = structure.texts("dim_order"), structure.numbers("shape")
    letters = [_AXES.get(name, "") for name in order]
    if sorted(letters) != ["b", "c", "x", "y"] or len(sizes) != 4:
        fix = "Volumes and time series are not supported."
        raise structure.refuse("dim_order", "batch, bands, height and width, and a shape of four", fix)
    return {letter: int(size) for letter, size in zip(letters, sizes, strict=True)}


def _scaling(given: Fields, channels: int) -> Scaling:
    for key in ("pre_processing_function", "resize_type"):
        if given.has(key):
            fix = "Give the model file itself, with the options that say the same."
            raise given.refuse(key, "none, since it is not carried out", fix)
    if given.has("norm_type") or given.has("norm_by_channel"):
        raise given.refuse("norm_type", "value_scaling, as of version 1.3 of the extension")
    scaling = Scaling(given.at("value_scaling"))
    entries = given.mappings("value_scaling")
    if not entries or all(entry.content.get("type") is None for entry in entries):
        return scaling
    if channels > 0 and len(entries) not in (1, channels):
        raise ModelError(given.at("value_scaling"), expected=f"1 or {channels}", found=str(len(entries)))
    pairs = [_pair(entry) for entry in entries]
    return scaling.standard([mean for mean, _ in pairs], [std for _, std in pairs])


def _pair(entry: Fields) -> tuple[float, float]:
    """Mean and deviation that say what an entry says: ``(value - mean) / deviation``."""
    kind = entry.text("type", "null")
    if kind == "null":
        return 0.0, 1.0
    if kind == "z-score":
        return entry.number("mean"), entry.number("stddev")
    if kind == "min-max":
        return entry.number("minimum"), entry.number("maximum") - entry.number("minimum")
    if kind == "offset":
        return entry.number("value"), 1.0
    if kind == "scale":
        return 0.0, entry.number("value")
    fix = "Give the model file itself, with the options that say the same."
    raise entry.refuse("type", "z-score, min-max, offset or scale", fix)


def _classes(got: Fields) -> tuple[tuple[str, ...], tuple[str, ...]]:
    key = "classification:classes" if got.has("classification:classes") else "classification_classes"
    classes = sorted(got.mappings(key), key=lambda entry: entry.whole("value"))
    if [entry.whole("value") for entry in classes] != list(range(len(classes))):
        raise got.refuse(key, "values from 0 on, without a gap")
    names = tuple(entry.text("name") if entry.has("name") else entry.text("title") for entry in classes)
    hints = [entry.text("color_hint", "") for entry in classes]
    if not hints or not all(_is_color(hint) for hint in hints):
        return names, ()
    return names, tuple(f"#{hint.removeprefix('#').lower()}" for hint in hints)


def _is_color(text: str) -> bool:
    return len(text.removeprefix("#")) == 6 and all(c in "0123456789abcdefABCDEF" for c in text.removeprefix("#"))


def _bands(given: Fields, places: tuple[Fields, Fields]) -> tuple[tuple[str, ...], ...]:
    """Names of each band: that of the input, and its common name where a band object has one."""
    value = given.content.get("bands")
    if not isinstance(value, list):
        raise given.refuse("bands", "a list of bands, which may be empty")
    common: dict[str, str] = {}
    for place in places:
        for key in ("bands", "eo:bands", "raster:bands"):
            for band in place.mappings(key):
                for name in ("eo:common_name", "common_name"):
                    if band.has("name") and band.has(name):
                        common[band.text("name")] = band.text(name)
    found: list[tuple[str, ...]] = []
    for band in value:
        if isinstance(band, dict) and band.get("expression") is not None:
            raise given.refuse("bands", "bands as they are, without expressions")
        called = band.get("name") if isinstance(band, dict) else band
        if not isinstance(called, str):
            raise given.refuse("bands", "names of bands")
        # Two bands may have one common name (three red edges have): then it names neither.
        alias = common.get(called, "")
        is_unique = bool(alias) and list(common.values()).count(alias) == 1
        found.append((called, alias) if is_unique else (called,))
    return tuple(found)


def _pixel_size(fields: Fields, asset: Fields) -> tuple[float | None, tuple[str, ...]]:
    """Metres a pixel, where all that is said agrees."""
    said = {
        place.number(key) for place in (fields, asset) for key in ("gsd", "raster:spatial_resolution") if place.has(key)
    }
    for place in (fields, asset):
        for key in ("bands", "eo:bands", "raster:bands"):
            for band in place.mappings(key):
                said |= {band.number(name) for name in ("gsd", "spatial_resolution") if band.has(name)}
    if len(said) > 1:
        return None, (
            f"pixel sizes of {', '.join(f'{size:g}' for size in sorted(said))} m: not compared with the image",
        )
    return (said.pop(), ()) if said else (None, ())
