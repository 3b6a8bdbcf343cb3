"""Small files that claim to be large: refused by what they claim, before room is made for it."""

import bz2
import gzip
import json
import lzma
import struct
import zlib
from pathlib import Path

import imagecodecs
import numcodecs
import numpy as np
import pytest
import tifffile
import zarr

import gigatile as gt
from gigatile.errors import BlockError, GigatileError, ImageError
from gigatile.images.coded_size import coded_size
from scripts.fuzzing import main, reading
from tests.security.tiffs import ASCII, LONG, LONG8, SHORT, classic, page

OME = (
    '<?xml version="1.0"?>{doctype}<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">{before}'
    '<Image ID="I:0">'
    '<Pixels ID="P:0" DimensionOrder="XYCZT" Type="uint8" SizeX="{x}" SizeY="16" SizeC="{c}" SizeZ="1" SizeT="{t}">'
    '<Channel ID="C:0" SamplesPerPixel="1"/>{data}</Pixels></Image></OME>'
)
BILLION_LAUGHS = (
    '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghi", "bcdefghij", strict=True))
    + "]>"
)


def ome(**values: object) -> str:
    return OME.format(**{"doctype": "", "before": "", "x": 16, "c": 1, "t": 1, "data": "<TiffData/>", **values})


def described(text: str) -> bytes:
    return classic(page(16, 16, (270, ASCII, text.encode() + b"\0")), tail=bytes(256))


TILED = ((322, LONG, [2**20]), (323, LONG, [2**20]), (324, LONG, [8]), (325, LONG, [600]))
BOMBS = {
    "a million by a million in one strip": classic(page(10**6, 10**6), tail=bytes(600)),
    "the same, deflated": classic(page(10**6, 10**6, compression=8), tail=zlib.compress(bytes(10**5))),
    "the same in one tile": classic(page(2**20, 2**20, *TILED), tail=bytes(600)),
    "the same in one deflated tile": classic(page(2**20, 2**20, *TILED, compression=8), tail=bytes(600)),
    "tiles without a table": classic(page(10**6, 10**6, (322, LONG, [256]), (323, LONG, [256]), (324, LONG, [8]))),
    "a tile that is larger than the image": classic(page(16, 16, *TILED, compression=8), tail=bytes(600)),
    "65,535 samples a pixel": classic(page(30_000, 30_000, (277, SHORT, [65535])), tail=bytes(600)),
    "a chain that comes back behind the hundredth": classic(
        *[page(1, 1, (278, LONG, [1]))] * 160, links=[*range(1, 160), 150], tail=bytes(16)
    ),
    "a sub-directory of itself": classic(page(1, 1, (330, LONG, [8 + 16])), tail=bytes(16)),
    "2^40 entries": struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, 2**40) + bytes(64),
    "2^60 values": struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, 1)
    + struct.pack("<HHQQ", 256, LONG8, 2**60, 16)
    + bytes(64),
    "a thousand laughs": described(ome(doctype=BILLION_LAUGHS, x="&j;")),
    "10^12 planes": described(ome(t=10**12)),
    "10^9 planes of one pixel": described(ome(x=10**9, c=10**3)),
    "10^9 planes in a row": described(ome(data='<TiffData PlaneCount="1000000000"/>')),
    "a modulo of 10^10 steps": described(
        ome(
            before='<StructuredAnnotations><XMLAnnotation ID="A" Namespace="openmicroscopy.org/omero/dimension/modulo">'
            '<Value><Modulo><ModuloAlongT Type="phase" Start="0" End="1e10"/></Modulo></Value>'
            "</XMLAnnotation></StructuredAnnotations>"
        )
    ),
    "a PNG of 60,000 x 60,000": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 60_000, 60_000) + bytes(64),
    "a JPEG of 65,000 x 65,000": b"\xff\xd8\xff\xc0\0\x11\x08"
    + struct.pack(">HHB", 65_000, 65_000, 3)
    + b"\xff\xd9" * 9,
}


@pytest.fixture(scope="module")
def child():
    """Reads images with 512 MiB more than it has."""
    made = main.Child(main.Limits(memory_bytes=512 << 20))
    yield made
    made.close()


@pytest.mark.parametrize("name", BOMBS)
def test_a_header_that_claims_too_much_is_refused_in_little_memory(name, child, tmp_path):
    path = tmp_path / "bomb.tif"
    path.write_bytes(BOMBS[name])
    assert len(BOMBS[name]) < 30_000
    outcome = child.outcome(path)
    assert outcome.kind == "error", outcome.text
    assert str(path) in outcome.text


def test_ten_to_the_twelve_pixels_in_a_kilobyte_are_a_usage_error_that_says_so(tmp_path, capsys):
    from gigatile.cli.main import main as gigatile

    path = tmp_path / "bomb.tif"
    path.write_bytes(BOMBS["the same in one deflated tile"])
    assert len(path.read_bytes()) < 1024
    assert gigatile(["info", str(path)]) == 2
    said = capsys.readouterr().err
    assert "1048576 x 1048576" in said
    assert "Traceback" not in said


def test_gdal_metadata_with_entities_are_left_aside_and_the_image_is_read(child, tmp_path):
    path = tmp_path / "placed.tif"
    bomb = f"{BILLION_LAUGHS}<GDALMetadata><Item>&j;</Item></GDALMetadata>\0"
    path.write_bytes(classic(page(16, 16, (42112, ASCII, bomb.encode())), tail=bytes(256)))
    assert child.outcome(path) == reading.Outcome("ok", "1 levels")
    assert "DOCTYPE" in " ".join(gt.open(path).info.notes)


def test_an_ome_xml_that_names_another_file_does_not_open_it(tmp_path, monkeypatch):
    other = tmp_path / "elsewhere" / "secret.tif"
    other.parent.mkdir()
    other.write_bytes(classic(page(16, 16), tail=bytes(256)))
    path = tmp_path / "here" / "a.ome.tif"
    path.parent.mkdir()
    data = '<TiffData><UUID FileName="../elsewhere/secret.tif">urn:uuid:1</UUID></TiffData>'
    path.write_bytes(described(ome(data=data)))
    opened = []
    original = tifffile.TiffFile.__init__

    def note(self, file, *args, **options):
        opened.append(str(file))
        original(self, file, *args, **options)

    monkeypatch.setattr(tifffile.TiffFile, "__init__", note)
    with pytest.raises(ImageError, match="refers to other files"):
        gt.open(path)
    assert not any("secret" in name for name in opened)


# Coded tiles ----------------------------------------------------------------------------------------------

CODERS = {
    "jpeg": (7, imagecodecs.jpeg_encode),
    "jpeg2000": (34712, lambda pixels: imagecodecs.jpeg2k_encode(pixels, codecformat="j2k")),
    "jp2": (34712, lambda pixels: imagecodecs.jpeg2k_encode(pixels, codecformat="jp2")),
    "jpegxl": (50002, imagecodecs.jpegxl_encode),
    "jpegxl in boxes": (50002, lambda pixels: imagecodecs.jpegxl_encode(pixels, usecontainer=True)),
    "jpegxr": (22610, imagecodecs.jpegxr_encode),
    "webp": (50001, imagecodecs.webp_encode),
    "lossless webp": (50001, lambda pixels: imagecodecs.webp_encode(pixels, lossless=True)),
    "png": (34933, imagecodecs.png_encode),
    "lerc": (34887, imagecodecs.lerc_encode),
}


@pytest.mark.parametrize("name", CODERS)
def test_a_tile_that_decodes_to_far_more_than_it_should_is_refused(name, tmp_path):
    compression, encode = CODERS[name]
    for height, width in ((8, 8), (37, 53), (300, 403)):
        assert coded_size(encode(np.zeros((height, width, 3), np.uint8)))[:2] == (height, width)
    data = encode(np.zeros((600, 600, 3), np.uint8))
    tags = ((322, LONG, [64]), (323, LONG, [64]), (324, LONG, [8]), (325, LONG, [len(data)]))
    colours = ((258, SHORT, [8, 8, 8]), (262, SHORT, [2]), (277, SHORT, [3]))
    path = tmp_path / "a.tif"
    path.write_bytes(classic(page(64, 64, *tags, *colours, compression=compression), tail=data))
    with pytest.raises(BlockError, match=r"level 0, segment 0 at byte 8.* 600 x 600 pixels in \d+ bytes is refused"):
        gt.open(path).read(gt.Region(0, 0, 64, 64))


# Zarr -----------------------------------------------------------------------------------------------------


def _unsized_zstd() -> bytes:
    """A frame of 32 MiB of zeros that does not state its size: blocks of 128 KiB of one repeated byte."""
    blocks = b"".join((131072 << 3 | 1 << 1 | (i == 255)).to_bytes(3, "little") + b"\0" for i in range(256))
    return b"\x28\xb5\x2f\xfd\x00\x58" + blocks


LARGE = bytes(32 << 20)
CHUNKS = {
    "zstd": lambda: numcodecs.Zstd().encode(LARGE),
    "zstd that does not say": _unsized_zstd,
    "blosc": lambda: numcodecs.Blosc("lz4").encode(np.frombuffer(LARGE, np.uint8)),
    "lz4": lambda: numcodecs.LZ4().encode(LARGE),
    "gzip": lambda: gzip.compress(LARGE, 1),
    "zlib": lambda: zlib.compress(LARGE, 1),
    "bz2": lambda: bz2.compress(LARGE[: 4 << 20], 1),
    "lzma": lambda: lzma.compress(LARGE[: 4 << 20], preset=0),
}


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr")
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("name", CHUNKS)
def test_a_chunk_that_decodes_to_far_more_than_it_should_is_refused(name, version, tmp_path):
    codec = name.split()[0]
    path = tmp_path / "a.zarr"
    path.mkdir()
    if version == 2:
        document = _v2({"id": codec}, [64, 64], [64, 64])
        (path / ".zarray").write_text(json.dumps(document))
        (path / "0.0").write_bytes(CHUNKS[name]())
    else:
        prefix = "" if codec in ("zstd", "gzip", "blosc") else "numcodecs."
        settings = {"blosc": {"cname": "lz4", "clevel": 5, "shuffle": "noshuffle", "typesize": 1, "blocksize": 0}}
        configuration = settings.get(codec, {"level": 1} if codec == "gzip" else {})
        document = _v3([{"name": prefix + codec, "configuration": configuration}])
        (path / "zarr.json").write_text(json.dumps(document))
        (path / "c" / "0").mkdir(parents=True)
        (path / "c" / "0" / "0").write_bytes(CHUNKS[name]())
    with pytest.raises(GigatileError, match=r"level 0 .*(refused|ZstdError)"):
        gt.open(path).read(gt.Region(0, 0, 64, 64))


def _v2(compressor: object, shape: list[int], chunks: list[int], **more: object) -> dict:
    fixed = {"zarr_format": 2, "dtype": "|u1", "fill_value": 0, "order": "C", "filters": None}
    return {**fixed, "shape": shape, "chunks": chunks, "compressor": compressor, **more}


def _v3(codecs: list[dict]) -> dict:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [64, 64],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [64, 64]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "attributes": {},
        "codecs": [{"name": "bytes"}, *codecs],
    }


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr")
@pytest.mark.parametrize("codec", ["zstd", "blosc", "lz4", "gzip", "zlib", "bz2", "lzma"])
@pytest.mark.parametrize("version", [2, 3])
def test_sound_chunks_read_through_the_limits(codec, version, tmp_path):
    pixels = np.random.default_rng(3).integers(0, 255, (100, 130)).astype(np.uint16)
    compressor = numcodecs.get_codec({"id": codec})
    if version == 3:
        import zarr.codecs.numcodecs as wrapped

        names = {"zstd": "Zstd", "blosc": "Blosc", "lz4": "LZ4", "gzip": "GZip", "zlib": "Zlib", "bz2": "BZ2"}
        compressor = getattr(wrapped, {**names, "lzma": "LZMA"}[codec])()
    path = tmp_path / "a.zarr"
    options = {"chunks": (64, 64), "zarr_format": version, "compressors": compressor}
    zarr.create_array(path, shape=pixels.shape, dtype=pixels.dtype, **options)[...] = pixels
    assert (gt.open(path).read(gt.Region(0, 0, 100, 130))[0] == pixels).all()


SHAPES = {
    "2^53 rows": _v2(None, [2**53, 4], [1, 4]),
    "a chunk larger than the image": _v2({"id": "zstd"}, [64, 64], [10**6, 10**6]),
    "10^9 channels": _v2(None, [10**9, 4, 4], [1, 4, 4]),
    "negative chunks": _v2(None, [64, 64], [-64, 64]),
    "text": _v2(None, ["64", 64], [64, 64]),
    "no axes": _v2(None, [], []),
    "records": _v2(None, [64, 64], [64, 64], dtype=[["a", "|u1"]]),
}


@pytest.mark.parametrize("name", SHAPES)
def test_an_array_that_claims_too_much_is_refused_in_little_memory(name, child, tmp_path):
    path = tmp_path / "a.zarr"
    path.mkdir()
    (path / ".zarray").write_text(json.dumps(SHAPES[name]))
    outcome = child.outcome(path)
    assert outcome.kind == "error", outcome.text


def test_json_nested_a_hundred_thousand_deep_is_an_error_and_no_crash(child, tmp_path):
    path = tmp_path / "a.zarr"
    path.mkdir()
    (path / "zarr.json").write_text('{"a":' + "[" * 100_000 + "]" * 100_000 + "}")
    assert child.outcome(path).kind == "error"


@pytest.mark.parametrize("path", ["../other", "/etc", "a/../../b", "", "..", "a\\..\\b", "file:///etc", 7, None])
def test_a_dataset_outside_of_its_group_is_refused(path, tmp_path):
    other = tmp_path / "other"
    zarr.create_array(other, shape=(8, 8), dtype="u1", chunks=(8, 8))[...] = 1
    group = tmp_path / "a.zarr"
    image = {"version": "0.4", "axes": ["y", "x"], "datasets": [{"path": path}]}
    zarr.create_group(group, zarr_format=2, attributes={"multiscales": [image]})
    with pytest.raises(ImageError, match="inside of the image"):
        gt.open(group)


class Payload:
    """Unpickling it writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.write_text, (self.target, "ran")


@pytest.mark.parametrize("place", ["compressor", "filters"])
def test_a_pickle_in_a_chunk_is_not_opened_even_where_numcodecs_would(place, tmp_path, monkeypatch):
    import pickle

    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    path = tmp_path / "a.zarr"
    path.mkdir()
    codec = {"id": "pickle", "protocol": 5}
    more = {"filters": [codec]} if place == "filters" else {}
    (path / ".zarray").write_text(json.dumps(_v2(codec if place == "compressor" else None, [8, 8], [8, 8], **more)))
    (path / "0.0").write_bytes(pickle.dumps(Payload(tmp_path / "marker")))
    with pytest.raises(ImageError, match="pickle"):
        gt.open(path).read(gt.Region(0, 0, 8, 8))
    assert not (tmp_path / "marker").exists()


def test_codecs_that_yield_python_objects_are_refused(tmp_path):
    path = tmp_path / "a.zarr"
    path.mkdir()
    codec = {"id": "categorize", "labels": ["a"], "dtype": "|O"}
    (path / ".zarray").write_text(json.dumps(_v2(None, [8, 8], [8, 8], filters=[codec])))
    with pytest.raises(ImageError, match="categorize, for Python objects"):
        gt.open(path)
