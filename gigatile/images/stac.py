"""STAC items: a scene described by a JSON file, whose assets are its bands.

::

    {"type": "Feature", "stac_version": "1.1.0", "assets": {
       "red":   {"href": "s3://.../B04.tif", "roles": ["data"], "bands": [{"name": "B04", "eo:common_name": "red"}]},
       "nir":   {"href": "./B08.tif", ...},                                                 one channel each
       "visual": three bands, "thumbnail", "scl" with classes                               left aside, and told
    }}

Only the item that is named is read; its assets may lie elsewhere, on a server too, but not be items themselves.

Source: https://github.com/radiantearth/stac-spec, item and common metadata 1.0 and 1.1 (`bands`); the extensions eo
1.1 and 2.0 (`eo:bands`, `eo:common_name`), raster 1.1 and 2.0 (`nodata`, `scale`, `offset`).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from gigatile.errors import ImageError
from gigatile.images.scene import Scene, SceneFile
from gigatile.storage.url import redacted, scheme_of

_MOST_BYTES = 16 << 20
"""Items have kilobytes."""
_ROLES = {"data", "reflectance"}
_NAMED = 8
_FIX = "Name the image files instead, with + between them."


@dataclass(frozen=True, slots=True)
class _Asset:
    """An asset that is an image of one or more bands."""

    key: str
    place: str
    names: tuple[str, ...]
    common: tuple[str, ...]
    """Common names; empty where a band has none."""
    metres: float
    """Ground a pixel covers, in whatever unit the item uses throughout; infinite where it is not said."""
    is_jp2: bool
    nodata: float | None
    is_scaled: bool


def stac_scene(path: Path) -> Scene:
    """The bands of an item: its data assets with one band each, else its only one with several.

    Of a band that lies in several assets the finest is taken, and of those a TIFF rather than a JP2.

    Raises
    ------
    ImageError
        The file is no item, or one of a model; it has no bands; a file is not there or cannot be read in place.
    """
    where = str(path)
    assets, aside = [], []
    for key, content in _stated_assets(path).items():
        asset = _asset(path, key, content) if isinstance(content, dict) and _is_band_data(content) else None
        if asset is None:
            aside.append(key)
        else:
            assets.append(asset)
    singles = [asset for asset in assets if len(asset.names) == 1]
    chosen = _finest(where, singles) if singles else assets
    if len(chosen) != 1 and not singles:
        found = f"{len(chosen)} assets with several" if chosen else f"none ({_shown(aside) or 'no assets'})"
        expected = "assets with the role data and the names of their bands (bands or eo:bands)"
        raise ImageError(where, expected=expected, found=found, fix=_FIX)
    aside += [asset.key for asset in assets if asset not in chosen]
    for asset in chosen:
        _check(where, asset)
    names = _channels(chosen)
    files = [SceneFile(asset.place, own, asset.nodata) for asset, own in zip(chosen, names, strict=True)]
    return Scene(where, "stac", tuple(files), tuple(_notes(chosen, names, aside)))


def _stated_assets(path: Path) -> dict[str, Any]:
    """The assets of an item of an image, as they stand there."""
    where = str(path)
    if path.stat().st_size > _MOST_BYTES:
        raise ImageError(where, expected="a STAC item", found=f"more than {_MOST_BYTES >> 20} MiB of JSON")
    try:
        item = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ImageError(where, expected="a STAC item", found=f"damaged JSON ({error})") from error
    kind = item.get("type") if isinstance(item, dict) else None
    if kind != "Feature" or "stac_version" not in item:
        known = {"Catalog": "a STAC catalog", "Collection": "a STAC collection", "FeatureCollection": "many features"}
        found = known.get(str(kind), "other JSON")
        raise ImageError(where, expected="an image, or a STAC item", found=found, fix="Name one item, or image files.")
    assets = item.get("assets")
    if not isinstance(assets, dict):
        raise ImageError(where, expected="a STAC item", found="one without assets", fix=_FIX)
    properties = item.get("properties")
    is_model = isinstance(properties, dict) and any(str(key).startswith("mlm:") for key in properties)
    if is_model or any("mlm:model" in _list(asset, "roles") for asset in assets.values()):
        fix = f"Give it as --model {where}."
        raise ImageError(where, expected="an item of an image", found="one of a model (mlm:)", fix=fix)
    return assets


def _list(content: object, key: str) -> list[Any]:
    value = content.get(key) if isinstance(content, dict) else None
    return value if isinstance(value, list) else []


def _is_band_data(content: Mapping[str, Any]) -> bool:
    """Whether an asset is an image of measured bands; maps of classes have nothing between two values."""
    media, roles = content.get("type"), _list(content, "roles")
    is_image = media is None or str(media).lower().startswith("image/")
    is_data = not roles or any(role in _ROLES for role in roles if isinstance(role, str))
    bands = [band for key in ("bands", "eo:bands", "raster:bands") for band in _list(content, key)]
    has_classes = any(isinstance(each, dict) and "classification:classes" in each for each in (content, *bands))
    return is_image and is_data and not has_classes and bool(_bands(content))


def _bands(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The band objects that have names: ``bands`` of 1.1, or ``eo:bands``."""
    for key in ("bands", "eo:bands"):
        bands = [band for band in _list(content, key) if isinstance(band, dict)]
        if bands and all(_name(band) for band in bands):
            return bands
    return []


def _name(band: Mapping[str, Any]) -> str:
    return str(band.get("name") or _common(band))


def _common(band: Mapping[str, Any]) -> str:
    return str(band.get("eo:common_name") or band.get("common_name") or "")


def _asset(path: Path, key: str, content: Mapping[str, Any]) -> _Asset:
    href = content.get("href")
    if not isinstance(href, str) or not href:
        raise ImageError(f"{path}: assets.{key}", expected="an href", found=repr(href), fix=_FIX)
    bands = _bands(content)
    details = [content, *bands, *(band for band in _list(content, "raster:bands") if isinstance(band, dict))]
    said = _first(details, "nodata", "raster:nodata")
    scales = _first(details, "scale", "raster:scale"), _first(details, "offset", "raster:offset")
    place = _place(path, href)
    media = str(content.get("type", "")).lower()
    return _Asset(
        key,
        place,
        tuple(_name(band) for band in bands),
        tuple(_common(band) for band in bands),
        _metres(content, details),
        media.startswith("image/jp2") or place.partition("?")[0].lower().endswith((".jp2", ".j2k")),
        said,
        scales[0] not in (None, 1) or scales[1] not in (None, 0),
    )


def _first(details: Sequence[Mapping[str, Any]], *keys: str) -> float | None:
    """The first number that one of them has under one of the keys."""
    return next((n for each in details for key in keys if (n := _number(each.get(key))) is not None), None)


def _number(value: object) -> float | None:
    """A number; ``"nan"`` and ``"inf"`` are words in JSON."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _metres(content: Mapping[str, Any], details: Sequence[Mapping[str, Any]]) -> float:
    stated = _first(details, "raster:spatial_resolution", "spatial_resolution", "gsd")
    if stated is None:
        transform = _list(content, "proj:transform")
        stated = _number(transform[0]) if transform else None
    return abs(stated) if stated and math.isfinite(stated) else math.inf


def _place(path: Path, href: str) -> str:
    """What `gigatile.open` takes; relative to the item."""
    if scheme_of(href) not in ("", "file"):
        return href
    text = href.removeprefix("file://")
    places = [path.parent / text, path.parent / unquote(text)]
    return str(next((place for place in places if place.exists()), places[0]))


def _finest(where: str, assets: Sequence[_Asset]) -> list[_Asset]:
    """One asset a band, in the order of the item."""
    best: dict[str, _Asset] = {}
    for asset in assets:
        other = best.setdefault(asset.names[0], asset)
        if other is asset:
            continue
        ranks = (asset.metres, asset.is_jp2), (other.metres, other.is_jp2)
        if ranks[0] == ranks[1]:
            raise ImageError(
                where,
                expected=f"one asset with the band {asset.names[0]}",
                found=f"{other.key} and {asset.key}, and neither gsd nor type says which is meant",
                fix=_FIX,
            )
        if ranks[0] < ranks[1]:
            best[asset.names[0]] = asset
    return list(best.values())


def _check(where: str, asset: _Asset) -> None:
    """Refuse what is not there or cannot be read where it lies; other servers are asked when the file is opened."""
    place, name = asset.place, f"{where}: assets.{asset.key}"
    if scheme_of(place) == "":
        if not Path(place).is_file():
            raise ImageError(name, expected=f"the file {place}", found="no such file", fix="See that it is there.")
    elif asset.is_jp2:
        fix = "Fetch it and name the copy in the item, or use an item with COGs."
        raise ImageError(name, expected="a local file, as JP2 is read by GDAL", found=redacted(place), fix=fix)


def _channels(assets: Sequence[_Asset]) -> list[tuple[str, ...]]:
    """Common names where they name one band; else, as for the three red edges, the band's own."""
    counts = Counter(name for asset in assets for name in asset.common)
    taken = {name for asset in assets for name in asset.names}
    return [
        tuple(
            common if common and counts[common] == 1 and (common == own or common not in taken) else own
            for own, common in zip(asset.names, asset.common, strict=True)
        )
        for asset in assets
    ]


def _notes(assets: Sequence[_Asset], names: Sequence[tuple[str, ...]], aside: Sequence[str]) -> list[str]:
    notes = []
    called = [
        f"{name} is {own}"
        for asset, shown in zip(assets, names, strict=True)
        for name, own in zip(shown, asset.names, strict=True)
        if name != own
    ]
    if called:
        notes.append(f"channels by their common names: {', '.join(called)}")
    scaled = [asset.key for asset in assets if asset.is_scaled]
    if scaled:
        notes.append(f"the item states a scale and offset for {_shown(scaled)}, which are not applied")
    if aside:
        notes.append(f"assets left aside: {_shown(aside)}")
    return notes


def _shown(keys: Sequence[str]) -> str:
    return ", ".join(keys[:_NAMED]) + (f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else "")
