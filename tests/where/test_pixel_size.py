"""The processing grid of a pixel size: against sums worked out here, tiled against whole, and where it lies."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import zarr

import gigatile as gt
from gigatile.errors import UsageError
from gigatile.images.decode_units import edges
from gigatile.images.image import Image
from gigatile.images.info import ImageInfo, Level
from gigatile.testing.models import identity
from gigatile.testing.sources import CountingSource, UnitSource, noise
from gigatile.tiling.region import Region
from gigatile.units import PixelSize
from tests.data import data

TILING = gt.Tiling(tile=32, overlap=12, margin=2, blend="hann", block=48)


class Slide(UnitSource):
    """Levels of noise with a pixel size, so that it shows which one is read."""

    def __init__(self, levels, factors, size=(0.25, 0.25), *, nodata=None, crs=None):
        unit = (16, 16)
        super().__init__(levels[0], unit, nodata)
        self.all, self._args = levels, (levels, factors, size, nodata, crs)
        made = tuple(
            Level(a.shape[1:], float(f), unit, edges(a.shape[1], unit[0]), edges(a.shape[2], unit[1]))
            for a, f in zip(levels, factors, strict=True)
        )
        names = tuple(f"c{i}" for i in range(len(levels[0])))
        scene = {"crs": crs, "transform": (size[1], 0.0, 500000.0, 0.0, -size[0], 4600000.0)} if crs else {}
        pixel = PixelSize(*size, "metre" if crs else "micrometer")
        dtype = levels[0].dtype
        self._info = ImageInfo("<slide>", "numpy", dtype, names, made, pixel_size=pixel, nodata=nodata, **scene)

    def __reduce__(self):
        return _slide, self._args

    def decode(self, level, row, col):
        grid = self.info.levels[level]
        return self.all[level][
            (slice(None), slice(*grid.edges_y[row : row + 2]), slice(*grid.edges_x[col : col + 2]))
        ].copy()


def _slide(levels, factors, size, nodata, crs):
    return Slide(levels, factors, size, nodata=nodata, crs=crs)


def slide(shape=(101, 83), size=(0.25, 0.25), **options):
    return Image(Slide([noise((3, *shape))], (1,), size, **options))


def everything(image):
    return image.read(Region(0, 0, *image.grid_shape))


def everything_valid(image):
    """Means over what is valid; where nothing is, what is stored."""
    return image.read_with_validity(Region(0, 0, *image.grid_shape), gt.Tiling().parsed_border)[0]


def area_weights(size, step):
    """Share of each source pixel in each pixel of a grid, in float64; a last, cut pixel is cut."""
    length = int(np.ceil(size / step - 1e-9))
    low, high = np.arange(length)[:, None] * step, np.minimum((np.arange(length)[:, None] + 1) * step, size)
    source = np.arange(size)
    inside = np.clip(np.minimum(high, source + 1) - np.maximum(low, source), 0, None)
    return inside / inside.sum(axis=1, keepdims=True)


def interpolation_weights(size, step):
    length = int(np.ceil(size / step - 1e-9))
    place = (np.arange(length) + 0.5) * step - 0.5
    return np.stack([np.interp(place, np.arange(size), row) for row in np.eye(size)], axis=1)


@pytest.mark.parametrize("wanted", [0.5, 0.6, 1.0, 0.7531, 3.0, 40.0])
def test_coarser_grids_are_exact_area_means(wanted):
    image = slide()
    scaled = image.at(wanted)
    assert scaled.grid_shape == tuple(int(np.ceil(side * 0.25 / wanted)) for side in (101, 83))
    y, x = (area_weights(side, wanted / 0.25) for side in (101, 83))
    expected = np.einsum("iy,cyx,jx->cij", y, everything(image).astype(float), x)
    assert scaled.dtype == everything(scaled).dtype == np.float32
    np.testing.assert_allclose(everything(scaled), expected, atol=1e-4, rtol=1e-6)


@pytest.mark.parametrize("wanted", [0.2, 0.125, 0.1])
def test_finer_grids_are_interpolated_with_a_warning(wanted):
    image = slide((23, 31))
    with pytest.warns(UserWarning, match="smaller than its own"):
        scaled = image.at(wanted)
    y, x = (interpolation_weights(side, wanted / 0.25) for side in (23, 31))
    expected = np.einsum("iy,cyx,jx->cij", y, everything(image).astype(float), x)
    np.testing.assert_allclose(everything(scaled), expected, atol=1e-4)


def test_pixels_that_are_not_square_become_square():
    image = slide((60, 60), (0.5, 0.25))
    scaled = image.at(1.0)
    assert scaled.grid_shape == (30, 15)
    blocks = everything(image).reshape(3, 30, 2, 15, 4).astype(float).mean(axis=(2, 4))
    np.testing.assert_allclose(everything(scaled), blocks, rtol=1e-6)
    assert scaled.scale == (2.0, 4.0)


@pytest.mark.parametrize("wanted", [61.0, 1e9])
def test_a_pixel_larger_than_the_image_is_taken_for_another_unit(wanted):
    with pytest.raises(UsageError, match=r"2 times the longer side of the image, 30 micrometer.*own is 0.5 x 0.25"):
        slide((60, 60), (0.5, 0.25)).at(wanted)


@pytest.mark.parametrize(
    ("place", "fix"),
    [
        ({}, "--source-pixel-size"),
        ({"transform": (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)}, "gdal_edit.py -a_srs"),
        ({"crs": "EPSG:32618"}, "gdalwarp"),
    ],
)
def test_without_a_pixel_size_it_is_told_what_helps_with_this_image(place, fix):
    source = UnitSource(noise((1, 60, 60)), (16, 16))
    source._info = replace(source.info, pixel_size=None, **place)
    with pytest.raises(UsageError, match=fix):
        Image(source).at(1.0)
    if place:
        with pytest.raises(UsageError, match="georeferenced"):
            Image(source).with_pixel_size(1.0)
    else:
        assert Image(source).with_pixel_size(1.0).at(2.0).grid_shape == (30, 30)


@pytest.mark.parametrize(("own", "wanted"), [(0.499, 1.0), (0.2461, 0.7), (0.1, 0.3), (0.25, 0.5)])
def test_the_result_stores_the_size_that_was_asked_for_to_the_last_digit(tmp_path, own, wanted):
    plan = gt.plan(slide((60, 70), (own, own)).at(wanted), gt.load_model(identity), TILING, output="raw")
    gt.run(plan, tmp_path / "out", durable=False)
    attributes = dict(zarr.open_group(tmp_path / "out" / "prediction.zarr", mode="r").attrs)
    for number, dataset in enumerate(attributes["ome"]["multiscales"][0]["datasets"]):
        scale, translation = (step[step["type"]][-2:] for step in dataset["coordinateTransformations"])
        assert scale == [wanted * 2**number] * 2
        assert translation == [(wanted * 2**number - own) / 2] * 2


def test_so_does_the_transform_of_a_scene(tmp_path):
    scene = slide((60, 70), (300.03793, 300.04179), crs="EPSG:32618")
    plan = gt.plan(scene.at(1000.0), gt.load_model(identity), TILING, output="raw")
    assert plan.metadata.transform == (1000.0, 0.0, 500000.0, 0.0, -1000.0, 4600000.0)
    assert (plan.metadata.pixel_size.y, plan.metadata.pixel_size.x) == (1000.0, 1000.0)
    # Another size than the one that is stored for a level is not claimed for it.
    near = gt.plan(scene.at(300.0), gt.load_model(identity), TILING, output="raw")
    assert near.metadata.pixel_size == scene.pixel_size


class TestLevels:
    levels = (noise((1, 160, 240)), noise((1, 80, 120), seed=1), noise((1, 40, 60), seed=2))

    @pytest.mark.parametrize(
        ("wanted", "level", "as_it_is"),
        [(0.25, 0, True), (0.2481, 0, True), (0.2524, 0, True), (0.4, 0, False), (0.504, 1, True), (0.4955, 1, True),
         (0.51, 1, False), (0.9, 1, False), (1.0, 2, True), (5.0, 2, False)],
    )  # fmt: skip
    def test_a_level_within_one_per_cent_is_taken_as_it_is(self, wanted, level, as_it_is):
        image = Image(Slide(list(self.levels), (1, 2, 4))).at(wanted)
        assert image.level == level
        assert (image.dtype == np.uint8) == as_it_is
        if as_it_is:
            assert np.array_equal(everything(image), self.levels[level])

    def test_a_factor_that_is_no_power_of_two_is_kept(self):
        wide = [noise((1, 40, 4020)), noise((1, 20, 2000), seed=1)]
        image = Image(Slide(wide, (1, 2.005))).at(1.0)
        assert image.level == 1
        assert image.grid_shape == (10, 1005)
        assert float(image.grid.x.step) == pytest.approx(4 / 2.01, abs=1e-9)


class TestTiledEqualsWhole:
    def whole(self, image):
        """The whole image on the new grid, as an image of its own."""
        return Image(UnitSource(everything_valid(image), (40, 50), nodata=image.nodata))

    @pytest.mark.parametrize("blend", ["trim", "hann", "mean"])
    @pytest.mark.parametrize("wanted", [0.5, 0.66])
    @pytest.mark.parametrize("nodata", [None, 7])
    def test_to_the_bit(self, tmp_path, blend, wanted, nodata):
        source = noise((3, 190, 230))
        source[:, 60:130, 20:100] = 7
        image = Image(Slide([source], (1,), nodata=nodata)).at(wanted)
        tiling = gt.Tiling(tile=32, overlap=12, margin=2 if blend != "trim" else 6, blend=blend, block=48)
        model = gt.load_model(blurred, scale=1 / 255)
        options = {"output": "probabilities", "memory": "2GiB"}
        tiled = gt.run(gt.plan(image, model, tiling, **options), tmp_path / "tiled", durable=False)
        whole = gt.run(gt.plan(self.whole(image), model, tiling, **options), tmp_path / "whole", durable=False)
        got = np.asarray(tiled.prediction[:])
        assert np.array_equal(got, np.asarray(whole.prediction[:]), equal_nan=True)
        assert np.isnan(got).any() == (nodata is not None)

    def test_whatever_the_block_and_the_memory(self, tmp_path):
        image = slide((230, 190))
        results = []
        for block in (20, 60, 400):
            tiling = gt.Tiling(tile=32, overlap=12, margin=2, blend="hann", block=block)
            plan = gt.plan(image.at(0.4), gt.load_model(blurred), tiling, output="probabilities")
            results.append(np.asarray(gt.run(plan, tmp_path / str(block), durable=False).prediction[:]))
        assert np.array_equal(results[0], results[1])
        assert np.array_equal(results[0], results[2])

    def test_scales_of_the_grid_are_read_from_the_image_too(self, tmp_path):
        # Footprints of one half of 0.5 um are those of 1 um.
        image = slide((128, 192))
        model = gt.load_model(identity, multiscale=(1, 0.5), scale=1.0)
        plan = gt.plan(image.at(0.5), model, TILING, output="raw")
        got = np.asarray(gt.run(plan, tmp_path / "a", durable=False).prediction[:])
        whole = gt.plan(self.whole(image.at(0.5)), model, TILING, output="raw")
        np.testing.assert_allclose(
            got, np.asarray(gt.run(whole, tmp_path / "b", durable=False).prediction[:]), atol=1e-4
        )


def blurred(batch):
    """Three by three means, so that halos matter."""
    padded = np.pad(batch, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    height, width = batch.shape[2:]
    return sum(padded[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)) / np.float32(9)


class TestThePlan:
    def test_bytes_are_scaled_as_bytes_although_means_are_floats(self):
        plan = gt.plan(slide().at(0.5), identity, TILING)
        assert plan.describe()["values"]["scale"] == 1 / 255

    def test_the_fingerprint_knows_the_grid(self):
        prints = {gt.plan(slide().at(p), identity, TILING).fingerprint for p in (0.25, 0.5, 0.501, 1.0)}
        assert len(prints) == 4
        assert gt.plan(slide().at(0.5), identity, TILING).fingerprint in prints

    def test_each_chunk_is_decoded_once(self, tmp_path):
        source = CountingSource(Slide([noise((3, 200, 260))], (1,)))
        plan = gt.plan(Image(source).at(0.5), identity, TILING)
        assert plan.memory.decoded_ratio == 1
        gt.run(plan, tmp_path / "out", durable=False)
        assert sum(source.decoded.values()) == plan.image.levels[0].unit_count

    def test_it_travels_to_workers(self):
        copy = pickle.loads(pickle.dumps(slide().at(0.6)))
        assert copy.grid_shape == slide().at(0.6).grid_shape
        assert np.array_equal(everything(copy), everything(slide().at(0.6)))

    def test_it_says_what_it_works_on(self):
        assert "0.5 micrometer a pixel from level 0, averaged" in str(gt.plan(slide().at(0.5), identity, TILING))

    @pytest.mark.parametrize("wanted", [0, -1, float("nan"), float("inf"), 0.0001])
    def test_what_is_no_size_is_refused(self, wanted):
        with pytest.raises(UsageError, match="pixel size"):
            slide().at(wanted)

    def test_an_image_without_a_pixel_size_is_refused_with_the_fix(self):
        with pytest.raises(UsageError, match="--source-pixel-size"):
            gt.open(noise((1, 9, 9)), axes="cyx").at(0.5)


class TestItLandsWhereItBelongs:
    def corners(self, dataset, shape):
        """Outer corners of the first and the last pixel, in units, by NGFF: a pixel's centre is its coordinate."""
        scale, translation = (step[name] for step, name in zip(dataset, ("scale", "translation"), strict=True))
        first = [t - s / 2 for s, t in zip(scale, translation, strict=True)]
        return first, [f + s * n for f, s, n in zip(first, scale, shape, strict=True)]

    @pytest.mark.parametrize("wanted", [0.5, 0.3, 1.7])
    def test_corners_of_a_slide(self, tmp_path, wanted):
        image = slide((203, 331))
        plan = gt.plan(image.at(wanted), identity, TILING)
        gt.run(plan, tmp_path / "out", durable=False)
        group = zarr.open_group(tmp_path / "out" / "prediction.zarr", mode="r")
        (multiscale,) = group.attrs["ome"]["multiscales"]
        first, last = self.corners(multiscale["datasets"][0]["coordinateTransformations"], group["0"].shape)
        # NGFF's origin is the centre of the source's first pixel: its corner is half a pixel before.
        assert np.allclose(first, [-0.125, -0.125], atol=1e-9)
        sides = np.array(image.shape[1:]) * 0.25 - 0.125
        assert (last >= sides - 1e-9).all()
        assert (last < sides + wanted).all(), "the last pixel begins inside the slide"

    def test_the_transform_of_a_scene(self):
        image = slide((300, 200), (10.0, 10.0), crs="EPSG:32633").at(20.0)
        transform = gt.plan(image, identity, TILING).metadata.transform
        assert transform == (20.0, 0.0, 500000.0, 0.0, -20.0, 4600000.0)

    def test_a_real_slide_at_one_micrometre(self, tmp_path):
        image = gt.open(data("wsi/CMU-1-Small-Region.svs"))
        scaled = image.at(1.0)
        assert scaled.grid_shape == (1481, 1108)
        pixels = tifffile.imread(data("wsi/CMU-1-Small-Region.svs"), key=0).astype(float)
        y, x = (area_weights(side, 1 / 0.499) for side in pixels.shape[:2])
        expected = np.einsum("iy,yxc->cix", y[:40], pixels) @ x.T
        assert np.abs(scaled.read(Region(0, 0, 40, 1108)) - expected).max() < 1e-3
