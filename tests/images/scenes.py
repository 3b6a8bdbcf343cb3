"""Small SAFE folders and STAC items as they are delivered, made with rasterio."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

SIDE = 240
"""Pixels of 10 m."""
TILE = "T31UFU_20230101T105331"
_METADATA = """<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<n1:Level-{level}_User_Product xmlns:n1="https://psd-15.sentinel2.eo.esa.int/PSD/User_Product_Level-{level}.xsd">
  <n1:General_Info>
    <Product_Info><PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE></Product_Info>
    <Product_Image_Characteristics>
      <Special_Values><SPECIAL_VALUE_TEXT>NODATA</SPECIAL_VALUE_TEXT><SPECIAL_VALUE_INDEX>0</SPECIAL_VALUE_INDEX>
      </Special_Values>
      <Special_Values><SPECIAL_VALUE_TEXT>SATURATED</SPECIAL_VALUE_TEXT><SPECIAL_VALUE_INDEX>65535</SPECIAL_VALUE_INDEX>
      </Special_Values>
      <QUANTIFICATION_VALUES_LIST><{short}_QUANTIFICATION_VALUE unit="none">10000</{short}_QUANTIFICATION_VALUE>
        <AOT_QUANTIFICATION_VALUE unit="none">1000.0</AOT_QUANTIFICATION_VALUE></QUANTIFICATION_VALUES_LIST>
      <{short}_ADD_OFFSET_VALUES_LIST>{offsets}</{short}_ADD_OFFSET_VALUES_LIST>
    </Product_Image_Characteristics>
  </n1:General_Info>
</n1:Level-{level}_User_Product>
"""


def write_band(path: Path, pixels: np.ndarray, metres: float, crs: str = "EPSG:32631", **profile) -> Path:
    """A single-band raster, JP2 (lossless) or GeoTIFF by its suffix, with its corner where all bands have it."""
    jp2 = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES", "BLOCKXSIZE": "128", "BLOCKYSIZE": "128"}
    tiff = {"driver": "GTiff", "tiled": True, "blockxsize": 64, "blockysize": 64}
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", count=1, height=pixels.shape[0], width=pixels.shape[1], dtype=pixels.dtype, crs=crs,
        transform=Affine(metres, 0, 600000, 0, -metres, 5700000), **(jp2 if path.suffix == ".jp2" else tiff), **profile,
    ) as out:  # fmt: skip
        out.write(pixels, 1)
    return path


def noise(metres: int, seed: int = 0) -> np.ndarray:
    """A band without a 0, shape (y, x), uint16."""
    side = SIDE * 10 // metres
    return np.random.default_rng([seed, metres]).integers(1, 9000, (side, side)).astype(np.uint16)


def metadata(level: str, baseline: str = "05.09", offset: int | None = -1000) -> str:
    """The MTD file of a product."""
    short = "BOA" if level == "2A" else "RADIO"
    offsets = "" if offset is None else "".join(
        f'<{short}_ADD_OFFSET band_id="{i}">{offset}</{short}_ADD_OFFSET>' for i in range(13)
    )  # fmt: skip
    return _METADATA.format(level=level, short=short, baseline=baseline, offsets=offsets)


def level_2a(parent: Path, bands: Mapping[str, tuple[int, ...]], suffix: str = ".jp2") -> Path:
    """A product of level 2A with these bands at these resolutions in metres, and what else lies in one."""
    folder = parent / "S2B_MSIL2A_20230101T105331_N0509_R051_T31UFU_20230101T120000.SAFE"
    images = folder / "GRANULE" / "L2A_T31UFU_A030430_20230101T105327" / "IMG_DATA"
    for band, sizes in bands.items():
        for metres in sizes:
            pixels = noise(metres, int(band[1:], 16))
            write_band(images / f"R{metres}m" / f"{TILE}_{band}_{metres}m{suffix}", pixels, metres)
    for other in ("SCL_20m", "TCI_10m", "AOT_10m", "WVP_10m"):
        beside = images / f"R{other[4:]}" / f"{TILE}_{other}{suffix}"
        beside.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(b"not opened")
    (images.parent / "QI_DATA").mkdir()
    (images.parent / "QI_DATA" / f"MSK_DETFOO_B02{suffix}").write_bytes(b"not opened")
    (folder / "manifest.safe").write_text("<xfdu/>")
    (folder / "MTD_MSIL2A.xml").write_text(metadata("2A"))
    return folder


def level_1c(parent: Path, bands: Mapping[str, int], suffix: str = ".jp2") -> Path:
    """A product of level 1C with these bands, each at its one resolution in metres."""
    folder = parent / "S2A_MSIL1C_20200101T105331_N0208_R051_T31UFU_20200101T120000.SAFE"
    images = folder / "GRANULE" / "L1C_T31UFU_A023000_20200101T105327" / "IMG_DATA"
    for band, metres in bands.items():
        write_band(images / f"{TILE}_{band}{suffix}", noise(metres, int(band[1:], 16)), metres)
    (images / f"{TILE}_TCI{suffix}").write_bytes(b"not opened")
    (folder / "manifest.safe").write_text("<xfdu/>")
    (folder / "MTD_MSIL1C.xml").write_text(metadata("1C", "02.08", None))
    return folder


def write_item(path: Path, assets: Mapping[str, object], **content: object) -> Path:
    """A STAC item with these assets."""
    item = {
        "type": "Feature", "stac_version": "1.0.0", "id": path.stem, "geometry": None, "links": [],
        "properties": {"datetime": "2023-01-01T10:53:31Z"}, "assets": assets, **content,
    }  # fmt: skip
    path.write_text(json.dumps(item))
    return path


def band_asset(href: str, name: str, common: str = "", **more: object) -> dict[str, object]:
    """An asset of one band, in the words of the eo extension 1."""
    band = {"name": name, **({"common_name": common} if common else {})}
    return {"href": href, "type": "image/tiff; application=geotiff", "roles": ["data"], "eo:bands": [band], **more}
