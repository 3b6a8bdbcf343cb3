"""Several files as one image, against the same done on whole arrays."""

import pickle
import threading
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import rasterio
from rasterio.enums import Resampling

import gigatile as gt
from gigatile.errors import DecodeError, ImageError, UsageError
from gigatile.images import stack as stack_module
from gigatile.images.image import REFLECT, Image
from gigatile.images.open import open_source
from gigatile.images.places import stack_parts
from gigatile.images.stack import CACHE_BYTES, StackSource
from gigatile.tiling.region import Region
from tests.data import data
from tests.images.assemble import check_grid, random_regions, whole, window
from tests.images.scenes import write_band
from tests.land_cover import RANGE, SCENE, SCENE_BANDS, network_input

RNG = np.random.default_rng(23)
SIDE = 240


def write(path: Path, pixels: np.ndarray, metres: float = 10, origin=(300000, 4100040), crs="EPSG:32631", **profile):
    pixels = pixels if pixels.ndim == 3 else pixels[None]
    count, height, width = pixels.shape
    place = rasterio.Affine(metres, 0, origin[0], 0, -metres, origin[1])
    profile = {"tiled": True, "blockxsize": 64, "blockysize": 64, **profile}
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=pixels.dtype, crs=crs,
        transform=place, **profile,
    ) as out:  # fmt: skip
        out.write(pixels)
    return path


def noise(side: int, dtype="uint16", bands: int = 1) -> np.ndarray:
    return RNG.integers(1, 5000 if dtype != "uint8" else 255, (bands, side, side)).astype(dtype)


def stack(*paths: Path) -> StackSource:
    source = open_source("+".join(str(path) for path in paths))
    assert isinstance(source, StackSource)
    return source


def bilinear(coarse: np.ndarray, factor: int) -> np.ndarray:
    """Interpolated between pixel centres, edges continued; (y, x), written apart from the package's."""
    size = coarse.shape[0] * factor
    at = np.clip((np.arange(size) + 0.5) / factor - 0.5, 0, coarse.shape[0] - 1)
    rows = np.array([np.interp(at, np.arange(coarse.shape[0]), column) for column in coarse.T]).T
    return np.array([np.interp(at, np.arange(coarse.shape[1]), row) for row in rows])


def test_files_of_one_grid_are_stacked_bit_for_bit(tmp_path):
    pixels = [noise(SIDE, bands=bands) for bands in (1, 2, 1)]
    blocks = ({}, {"blockxsize": 128, "blockysize": 32}, {"tiled": False})
    paths = [
        write(tmp_path / f"{name}.tif", each, **block) for name, each, block in zip("abc", pixels, blocks, strict=True)
    ]
    source = stack(*paths)
    check_grid(source)
    np.testing.assert_array_equal(whole(source), np.concatenate(pixels))
    assert source.info.channels == ("a", "b:0", "b:1", "c")
    assert source.info.crs == "EPSG:32631"


def test_coarser_files_are_interpolated_between_pixel_centres(tmp_path):
    fine, coarse, coarsest = noise(SIDE), noise(SIDE // 2), noise(SIDE // 6)
    source = stack(
        write(tmp_path / "T31_B05_20m.tif", coarse, 20),
        write(tmp_path / "T31_B04_10m.tif", fine, 10),
        write(tmp_path / "T31_B01_60m.tif", coarsest, 60),
    )
    info = source.info
    assert info.channels == ("B05", "B04", "B01")
    assert info.levels[0].shape == (SIDE, SIDE)
    assert info.pixel_size is not None
    assert info.pixel_size.x == 10
    pixels = whole(source)
    np.testing.assert_array_equal(pixels[1], fine[0])
    for channel, (own, factor) in {0: (coarse, 2), 2: (coarsest, 6)}.items():
        # rounded to whole numbers, like the stored ones; float32 in between
        assert np.abs(pixels[channel] - bilinear(own[0].astype(float), factor)).max() <= 0.501
    assert sum("is resampled by" in note for note in info.notes) == 2
    for region in random_regions((SIDE, SIDE), 6, RNG):
        np.testing.assert_array_equal(window(source, 0, region), pixels[(slice(None), *region.slices())])


def test_nodata_does_not_enter_the_interpolation_and_does_not_grow(tmp_path):
    fine, coarse = noise(SIDE), np.full((1, SIDE // 2, SIDE // 2), 1000, np.uint16)
    coarse[0, 30:40, 50:70] = 0
    fine[0, :20] = 0
    source = stack(write(tmp_path / "a.tif", fine, 10, nodata=0), write(tmp_path / "b.tif", coarse, 20, nodata=0))
    assert source.info.nodata == 0
    assert source.info.alpha is None
    np.testing.assert_array_equal(whole(source)[1], coarse[0].repeat(2, 0).repeat(2, 1))
    valid = Image(source).read_with_validity(Region(0, 0, SIDE, SIDE), REFLECT)[1]
    np.testing.assert_array_equal(valid, np.ones((SIDE, SIDE), bool))
    valid = Image(source).select(["b"]).read_with_validity(Region(0, 0, SIDE, SIDE), REFLECT)[1]
    np.testing.assert_array_equal(valid, (coarse[0] != 0).repeat(2, 0).repeat(2, 1))


def test_unlike_nodata_becomes_a_mask_that_is_valid_where_a_file_is(tmp_path):
    a, b = noise(SIDE), noise(SIDE, "float32")
    a[0, :100], b[0, :, :100] = 0, np.nan
    source = stack(write(tmp_path / "a.tif", a, nodata=0), write(tmp_path / "b.tif", b, nodata=np.nan))
    image = Image(source)
    assert image.channels == ("a", "b")
    assert image.dtype == np.float32
    valid = image.read_with_validity(Region(0, 0, SIDE, SIDE), REFLECT)[1]
    np.testing.assert_array_equal(valid, (a[0] != 0) | ~np.isnan(b[0]))


def test_levels_are_those_of_the_finest_and_coarser_files_give_theirs(tmp_path):
    fine, coarse = noise(SIDE), noise(SIDE // 2)
    first = write(tmp_path / "a.tif", fine)
    with rasterio.open(first, "r+") as raster:
        raster.build_overviews([2, 4], Resampling.average)
    source = stack(first, write(tmp_path / "b.tif", coarse, 20))
    assert [level.shape for level in source.info.levels] == [(240, 240), (120, 120), (60, 60)]
    np.testing.assert_array_equal(whole(source, 1)[1], coarse[0])
    mean = coarse[0].reshape(60, 2, 60, 2).astype(float).mean(axis=(1, 3))
    np.testing.assert_array_equal(whole(source, 2)[1], np.rint(mean))
    with rasterio.open(first, overview_level=1) as raster:
        np.testing.assert_array_equal(whole(source, 2)[0], raster.read(1))


def test_grids_that_are_cut_to_whole_pixels_fit(tmp_path):
    fine, coarse = noise(SIDE - 1), noise(SIDE // 2)
    source = stack(write(tmp_path / "a.tif", fine), write(tmp_path / "b.tif", coarse, 20))
    assert source.info.levels[0].shape == (239, 239)
    expected = bilinear(coarse[0].astype(float), 2)[:239, :239]
    assert np.abs(whole(source)[1] - expected).max() <= 0.501


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"crs": "EPSG:32632"}, r"b\.tif: expected the CRS EPSG:32631, found EPSG:32632"),
        ({"origin": (300005, 4100040)}, r"expected the extent of a\.tif, \(300000, 4100040\) to \(302400, 4097640\)"),
        ({"metres": 11}, "expected the extent"),
        ({"crs": None}, "expected the CRS EPSG:32631, found None"),
    ],
)
def test_another_crs_or_extent_is_refused_with_what_to_do(tmp_path, other, told):
    write(tmp_path / "a.tif", noise(SIDE))
    write(tmp_path / "b.tif", noise(SIDE), **{"metres": 10, **other})
    with pytest.raises(ImageError, match=told) as error:
        stack(tmp_path / "a.tif", tmp_path / "b.tif")
    assert "gdalwarp" in error.value.fix


def test_pictures_without_a_place_need_one_size(tmp_path):
    for name, side in (("a", 40), ("b", 40), ("c", 20)):
        (tmp_path / f"{name}.png").write_bytes(imagecodecs.png_encode(noise(side, "uint8")[0]))
    assert whole(stack(tmp_path / "a.png", tmp_path / "b.png")).shape == (2, 40, 40)
    with pytest.raises(ImageError, match=r"c\.png: expected 40 x 40 pixels"):
        stack(tmp_path / "a.png", tmp_path / "c.png")


def test_another_process_opens_it_again_and_its_identity_is_that_of_all_files(tmp_path):
    paths = [write(tmp_path / "a.tif", noise(SIDE)), write(tmp_path / "b.tif", noise(SIDE // 2), 20)]
    source = stack(*paths)
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(whole(again), whole(source))
    assert again.identity() == source.identity()
    assert stack(*paths[::-1]).identity() != source.identity()
    write(paths[1], noise(SIDE // 2), 20)
    assert stack(*paths).identity() != source.identity()


def test_many_threads_read_the_same(tmp_path):
    source = stack(write(tmp_path / "a.tif", noise(SIDE)), write(tmp_path / "b.tif", noise(SIDE // 2), 20))
    expected = whole(source)
    image = Image(source)
    different = []

    def read():
        if not np.array_equal(image.read(Region(0, 0, SIDE, SIDE)), expected):
            different.append(1)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not different


def test_a_plus_in_a_name_is_no_stack(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a+b.tif", "c.tif", "d"):
        Path(name).touch()
    assert stack_parts("a+b.tif") == ("a+b.tif",)
    assert stack_parts("a+b.tif+c.tif") == ("a+b.tif", "c.tif")
    assert stack_parts("c.tif+a+b.tif") == ("c.tif", "a+b.tif")
    assert stack_parts("none+gone") == ("none+gone",)
    assert stack_parts("s3://b/x+y.tif") == ("s3://b/x+y.tif",)
    assert stack_parts("s3://b/x+y.tif+s3://b/z.tif+d") == ("s3://b/x+y.tif", "s3://b/z.tif", "d")


def test_spaces_around_a_plus_do_not_count_unless_a_name_has_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.tif", "b.tif", "a .tif", "b + c.tif", " d"):
        Path(name).touch()
    assert stack_parts("a.tif + b.tif") == ("a.tif", "b.tif")
    assert stack_parts(" a .tif +  b.tif ") == ("a .tif", "b.tif")
    assert stack_parts("b + c.tif") == ("b + c.tif",)
    assert stack_parts("a.tif + b + c.tif") == ("a.tif", "b + c.tif")
    assert stack_parts("a.tif+ d") == ("a.tif", " d")
    assert stack_parts("a.tif + gone.tif") == ("a.tif", "gone.tif")
    assert stack_parts("s3://b/x.tif + s3://b/z.tif") == ("s3://b/x.tif", "s3://b/z.tif")


@pytest.mark.parametrize("name", ["a.tif+", "+a.tif", "a.tif++a.tif", "a.tif + "])
def test_a_plus_without_a_file_is_told(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.tif", noise(64))
    with pytest.raises(UsageError, match="a file on each side of"):
        gt.open(name)


def test_a_run_over_single_band_files_is_the_run_over_the_stacked_file(tmp_path):
    pixels = noise(SIDE, "uint8", 3)
    whole_file = write(tmp_path / "rgb.tif", pixels)
    names = [tmp_path / f"B0{i}.tif" for i in range(3)]
    for name, band in zip(names, pixels, strict=True):
        write(name, band)
    tiling = gt.Tiling(tile=64, overlap=16)
    results = []
    for place, out in ((str(whole_file), "one"), ("+".join(map(str, names)), "three")):
        plan = gt.plan(gt.open(place), gt.load_model(mean), tiling, output="raw", memory="1GiB")
        assert gt.run(plan, tmp_path / out).status.complete
        chunks = sorted((tmp_path / out / "prediction.zarr").rglob("c/**/*"))
        results.append([chunk.read_bytes() for chunk in chunks if chunk.is_file()])
    assert results[0]
    assert results[0] == results[1]


def mean(batch: np.ndarray) -> np.ndarray:
    """The channels weighted differently, so that their order counts."""
    return np.asarray(batch * np.array([1, 2, 4], np.float32)[:, None, None]).sum(axis=1, keepdims=True)


def test_real_bands_are_stacked():
    names = [data(f"satellite/rio-tiler/scene_band{i}.tif") for i in (1, 2)]
    source = stack(*names)
    assert source.info.channels == ("scene_band1", "scene_band2")
    for i, name in enumerate(names):
        with rasterio.open(name) as raster:
            np.testing.assert_array_equal(whole(source)[i], raster.read(1))


def test_a_real_jp2_band_and_a_finer_one(tmp_path):
    path = data("satellite/s2_B01_60m_15bit.jp2")
    with rasterio.open(path) as raster:
        coarse, origin = raster.read(1), (raster.transform.c, raster.transform.f)
    fine = RNG.integers(0, 255, (1, 3660, 3660)).astype("uint8")
    source = stack(write(tmp_path / "fine.tif", fine, 30, origin), path)
    assert source.info.dtype == np.uint16
    region = Region(1000, 1100, 1300, 1400)
    pixels = window(source, 0, region)
    np.testing.assert_array_equal(pixels[0], fine[0][region.slices()])
    around = bilinear(coarse[490:660, 540:710].astype(float), 2)  # from level-0 pixels (980, 1080) on
    assert np.abs(pixels[1] - around[20:320, 20:320]).max() <= 0.501


class LandCover:
    """Dynamic World, from stored values to logits."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        return self._session.run(None, {"s2": network_input(batch)})[0]


def test_single_bands_of_a_real_scene_give_its_reference_land_cover(tmp_path):
    scene = data(SCENE)
    reference = data("reference/dw_sen2_classes.tif")
    with rasterio.open(scene) as raster:
        for band in RANGE:
            profile = {**raster.profile, "count": 1, "height": 144, "width": 144}
            with rasterio.open(tmp_path / f"S2_{band}.tif", "w", **profile) as out:
                out.write(raster.read([SCENE_BANDS.index(band) + 1], window=((40, 184), (60, 204))))
    image = gt.open("+".join(str(tmp_path / f"S2_{band}.tif") for band in RANGE))
    assert image.channels == tuple(RANGE)
    model = gt.load_model(LandCover(data("models/dynamicworld_forward_nchw.onnx")))
    plan = gt.plan(image, model, gt.Tiling(tile=112, overlap=48, blend="trim"), output="classes", memory="2GiB")
    result = gt.run(plan, tmp_path / "out")
    assert result.status.complete
    with rasterio.open(reference) as raster:
        expected = raster.read(1, window=((40, 184), (60, 204)))
    # Nearer to the edge of the part the reference sees the rest of the scene, and the run what it reflects.
    inside = slice(24, -24), slice(24, -24)
    np.testing.assert_array_equal(np.asarray(result.prediction[...])[inside], expected[inside])


class Decodes:
    """A source and how often it was decoded; not to be pickled."""

    def __init__(self, source):
        self.source, self.count = source, 0

    @property
    def info(self):
        return self.source.info

    def decode(self, level, row, col):
        self.count += 1
        return self.source.decode(level, row, col)

    def identity(self):
        return self.source.identity()


def counted(tmp_path, **profile) -> list[Decodes]:
    pixels = {"a": noise(SIDE), "b": noise(SIDE, bands=2), "c": noise(SIDE // 2)}
    paths = [write(tmp_path / f"{n}.tif", each, 20 if n == "c" else 10, **profile) for n, each in pixels.items()]
    return [Decodes(open_source(path)) for path in paths]


def test_only_files_whose_channels_are_selected_are_decoded(tmp_path):
    files = counted(tmp_path)
    image = Image(StackSource(files))
    box = Region(20, 30, 150, 200)
    expected = image.read(box)
    before = [file.count for file in files]
    assert all(before)
    chosen = image.select(["c", "a"])
    np.testing.assert_array_equal(chosen.read(box), expected[[3, 0]])
    assert files[1].count == before[1]
    assert files[0].count > before[0]
    assert files[2].count > before[2]
    assert chosen.info == image.info
    assert chosen.source.identity() == image.source.identity()


def test_a_selection_can_be_widened_again_and_keeps_its_cache_while_the_files_are_the_same(tmp_path):
    files = counted(tmp_path)
    image = Image(StackSource(files))
    box = Region(20, 30, 150, 200)
    expected = image.read(box)
    one = image.select(["b:0"])
    np.testing.assert_array_equal(one.read(box), expected[1:2])
    count = files[1].count
    other = one.select(["b:1"])
    assert other.cache is one.cache
    np.testing.assert_array_equal(other.read(box), expected[2:3])
    assert files[1].count == count
    np.testing.assert_array_equal(other.select(["c", "a", "b:0"]).read(box), expected[[3, 0, 1]])
    assert image.select([0, 1, 2, 3]).cache is image.cache


def test_a_selection_reads_the_same_in_another_process_and_at_another_pixel_size(tmp_path):
    paths = [write(tmp_path / "a.tif", noise(SIDE)), write(tmp_path / "b.tif", noise(SIDE // 2), 20)]
    image = Image(stack(*paths))
    box = Region(0, 0, 100, 100)
    again = pickle.loads(pickle.dumps(image.select(["b"])))
    np.testing.assert_array_equal(again.read(box), image.read(box)[1:])
    np.testing.assert_array_equal(image.select(["b"]).at(20).read(box), image.at(20).read(box)[1:])


def test_a_mask_of_all_files_needs_all_files(tmp_path):
    a, b = noise(SIDE), noise(SIDE, "float32")
    a[0, :100], b[0, :, :100] = 0, np.nan
    source = stack(write(tmp_path / "a.tif", a, nodata=0), write(tmp_path / "b.tif", b, nodata=np.nan))
    image = Image(source).select(["a"])
    assert image.source is source
    valid = image.read_with_validity(Region(0, 0, SIDE, SIDE), REFLECT)[1]
    np.testing.assert_array_equal(valid, (a[0] != 0) | ~np.isnan(b[0]))


def test_a_damaged_file_whose_channels_are_not_selected_does_not_matter(tmp_path):
    paths = [write(tmp_path / f"{name}.tif", noise(SIDE), compress="deflate") for name in "ab"]
    content = bytearray(paths[1].read_bytes())
    content[-400:] = bytes(400)
    paths[1].write_bytes(content)
    image = Image(stack(*paths))
    with pytest.raises(DecodeError):
        image.read(Region(0, 0, SIDE, SIDE))
    with rasterio.open(paths[0]) as raster:
        np.testing.assert_array_equal(image.select(["a"]).read(Region(0, 0, SIDE, SIDE)), raster.read())


def test_the_cache_that_files_have_together_is_counted_once(tmp_path):
    paths = [write_band(tmp_path / f"{name}.jp2", noise(SIDE)[0], 10) for name in "abc"]
    one = open_source(paths[0]).info
    assert one.shared_bytes == one.reader_bytes > 0
    assert stack(*paths).info.reader_bytes == CACHE_BYTES + one.reader_bytes


def test_units_of_coarser_files_are_decoded_once_however_many_files_there_are(tmp_path, monkeypatch):
    paths = [write(tmp_path / f"fine{i}.tif", noise(1536)) for i in range(4)]
    paths += [write(tmp_path / f"coarse{i}.tif", noise(768), 20) for i in range(3)]
    files = [Decodes(open_source(path)) for path in paths]
    coarse = Image(files[-1])
    across = len(coarse.levels[0].edges_x) - 1
    assert across > 1
    enough = (2 * across + 1) * coarse.unit_bytes(0)  # two rows: interpolation looks into the next
    monkeypatch.setattr(stack_module, "CACHE_BYTES", 0)
    monkeypatch.setattr(stack_module, "FILE_CACHE_BYTES", enough)
    source = StackSource(files)
    assert source.info.reader_bytes == 3 * enough
    level = source.info.levels[0]
    for row in range(len(level.edges_y) - 1):
        for col in range(len(level.edges_x) - 1):
            source.decode(0, row, col)
    assert [file.count for file in files] == [level.unit_count] * 4 + [coarse.levels[0].unit_count] * 3
