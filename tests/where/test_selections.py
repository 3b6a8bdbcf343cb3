"""Selections: the pixel-centre rule against slow truths, windows as parts of the whole, masks of any alignment."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

import gigatile as gt
from gigatile.errors import ImageError, UsageError
from gigatile.images.image import Image
from gigatile.selections.choose import selection_of
from gigatile.selections.polygons import Polygons
from gigatile.selections.raster import CELL, Raster, cells_of_array
from gigatile.selections.selection import All, Box, Frame
from gigatile.testing.sources import UnitSource, noise
from gigatile.tiling.region import Region

LEVEL0 = Frame((60, 80), (1.0, 1.0))


def whole(selection, frame):
    return selection.window(frame.region)


def inside(x, y, rings):
    """The even-odd rule for one point, crossing by crossing."""
    odd = False
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, [*ring[1:], ring[0]], strict=True):
            if (y0 <= y) != (y1 <= y) and x >= x0 + (y - y0) * (x1 - x0) / (y1 - y0):
                odd = not odd
    return odd


def slowly(polygons, frame):
    kept = np.zeros(frame.shape, bool)
    for row, col in np.ndindex(frame.shape):
        y, x = (row + 0.5) * frame.scale[0], (col + 0.5) * frame.scale[1]
        kept[row, col] = any(inside(x, y, rings) for rings in polygons)
    return kept


points = st.tuples(st.floats(-10, 90), st.floats(-10, 70))
rings = st.lists(points, min_size=3, max_size=7)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(rings, min_size=1, max_size=2), min_size=1, max_size=3), st.sampled_from([1.0, 2.5, 3.0]))
def test_polygons_are_those_of_the_rule_point_by_point(polygons, scale):
    frame = Frame((int(60 / scale), int(80 / scale)), (scale, scale))
    got = Polygons.of_level0([[np.array(ring) for ring in rings_] for rings_ in polygons], frame)
    assert np.array_equal(whole(got, frame), slowly(polygons, frame))


@settings(max_examples=40, deadline=None)
@given(st.data(), rings)
def test_any_window_of_any_selection_is_a_part_of_the_whole(data, ring):
    mask = np.random.default_rng(len(ring)).random((31, 41)) > 0.7
    selections = [
        Polygons.of_level0([[np.array(ring)]], LEVEL0),
        Box.of_level0(3.2, 5.5, 40.1, 33.5, LEVEL0),
        Raster(cells_of_array(mask), LEVEL0, (0.5, 0.5), (0.25, -3.0)),
    ]
    selections.append(All(tuple(selections[1:])))
    y0, x0 = data.draw(st.integers(-9, 59)), data.draw(st.integers(-9, 79))
    region = Region(y0, x0, y0 + data.draw(st.integers(1, 40)), x0 + data.draw(st.integers(1, 40)))
    for selection in selections:
        padded = np.pad(whole(selection, LEVEL0), 50)
        part = padded[region.y0 + 50 : region.y1 + 50, region.x0 + 50 : region.x1 + 50]
        assert np.array_equal(selection.window(region), part)
        assert selection.touches(region) == part.any()
        rows, cols = np.nonzero(whole(selection, LEVEL0))
        box = selection.bounds
        assert not len(rows) or (box.y0 <= rows.min() and rows.max() < box.y1 and box.x0 <= cols.min())
        copy = pickle.loads(pickle.dumps(selection))
        assert np.array_equal(copy.window(region), part)
        assert copy.describe() == selection.describe()


def test_neighbours_share_no_pixel_and_leave_none_out():
    rng = np.random.default_rng(3)
    corners = {(i, j): np.array([j * 20, i * 20]) + rng.uniform(-7, 7, 2) for i in range(4) for j in range(5)}
    count = np.zeros(LEVEL0.shape, int)
    for i in range(3):
        for j in range(4):
            ring = np.array([corners[i, j], corners[i, j + 1], corners[i + 1, j + 1], corners[i + 1, j]])
            count += whole(Polygons.of_level0([[ring]], LEVEL0), LEVEL0)
    assert count.max() == 1
    assert (count[8:52, 8:72] == 1).all()


def test_a_box_of_whole_numbers_is_that_region_and_agrees_with_the_polygon():
    box = Box.of_level0(10, 20, 30, 40, LEVEL0)
    assert box.bounds == Region(20, 10, 40, 30)
    ring = np.array([[10, 20], [30, 20], [30, 40], [10, 40]], float)
    assert np.array_equal(whole(box, LEVEL0), whole(Polygons.of_level0([[ring]], LEVEL0), LEVEL0))
    coarse = Frame((15, 20), (4.0, 4.0))
    assert Box.of_level0(10, 20, 30, 40, coarse).bounds == Region(5, 2, 10, 7)


def test_large_masks_are_held_in_cells():
    mask = np.zeros((5 * CELL, 7 * CELL + 3), bool)
    mask[CELL // 2 : 3 * CELL, 2 * CELL :] = True
    cells = cells_of_array(mask)
    assert len(cells.bits) <= 5 + 8
    assert np.array_equal(cells.read(Region(0, 0, *mask.shape)), mask)
    changed = mask.copy()
    changed[0, 0] = True
    assert cells_of_array(changed).digest != cells.digest
    assert cells_of_array(mask.copy()).digest == cells.digest


class TestMaskFiles:
    image = gt.open(noise((3, 201, 300)), axes="cyx")

    def write(self, path, mask, **options):
        tifffile.imwrite(path, mask.astype(np.uint8), **options)
        return str(path)

    @pytest.mark.parametrize("factor", [1, 2, 4, 10])
    @pytest.mark.parametrize("cut", [np.floor, np.ceil])
    def test_any_resolution_of_the_same_extent(self, tmp_path, factor, cut):
        shape = tuple(int(cut(side / factor)) for side in (201, 300))
        mask = np.random.default_rng(0).random(shape) > 0.5
        selection = selection_of(self.image, None, self.write(tmp_path / "m.tif", mask * 255))
        kept = selection.window(Region(0, 0, 201, 300))
        big = np.kron(mask, np.ones((factor, factor), bool))[:201, :300]
        assert np.array_equal(kept[: big.shape[0], : big.shape[1]], big)
        assert not kept[big.shape[0] :].any()

    def test_another_extent_is_refused(self, tmp_path):
        with pytest.raises(ImageError, match="the extent of the image, 201 x 300 px"):
            selection_of(self.image, None, self.write(tmp_path / "m.tif", np.ones((100, 100))))

    def test_what_is_no_mask_is_refused(self, tmp_path):
        with pytest.raises(ImageError, match="tissue, a raster or a GeoJSON"):
            selection_of(self.image, None, str(tmp_path / "missing.tif"))

    def test_an_empty_mask_is_told(self, tmp_path):
        with pytest.warns(UserWarning, match="keeps nothing"):
            selection_of(self.image, None, self.write(tmp_path / "m.tif", np.zeros((201, 300))))

    def test_content_counts_and_not_the_path(self, tmp_path):
        mask = np.eye(201, 300) > 0
        one = selection_of(self.image, None, self.write(tmp_path / "a.tif", mask))
        other = selection_of(self.image, None, self.write(tmp_path / "b.tif", mask, compression="deflate"))
        assert one.describe() == other.describe()
        mask[5, 9] = True
        third = selection_of(self.image, None, self.write(tmp_path / "a.tif", mask))
        assert third.describe() != one.describe()

    def scene(self, path, shape, transform, value=1, crs="EPSG:32633"):
        rasterio = pytest.importorskip("rasterio")
        pixels = np.broadcast_to(np.asarray(value, np.uint8), shape)
        profile = {"height": shape[0], "width": shape[1], "count": 1, "dtype": "uint8", "crs": crs}
        with rasterio.open(path, "w", driver="GTiff", transform=rasterio.Affine(*transform), **profile) as file:
            file.write(pixels, 1)
        return str(path)

    def test_a_georeferenced_mask_lies_where_it_says(self, tmp_path):
        image = gt.open(self.scene(tmp_path / "i.tif", (100, 120), (10, 0, 5000, 0, -10, 9000)))
        mask = self.scene(tmp_path / "m.tif", (10, 8), (20, 0, 5200, 0, -20, 8700))
        kept = selection_of(image, None, mask).window(Region(0, 0, 100, 120))
        expected = np.zeros((100, 120), bool)
        expected[30:50, 20:36] = True
        assert np.array_equal(kept, expected)

    def test_a_mask_in_another_crs_is_refused(self, tmp_path):
        image = gt.open(self.scene(tmp_path / "i.tif", (10, 12), (10, 0, 5000, 0, -10, 9000)))
        mask = self.scene(tmp_path / "m.tif", (10, 12), (10, 0, 5000, 0, -10, 9000), crs="EPSG:3857")
        with pytest.raises(ImageError, match="Warp the mask"):
            selection_of(image, None, mask)

    def test_geojson_of_a_scene_is_longitude_and_latitude_unless_it_says_otherwise(self, tmp_path):
        pyproj = pytest.importorskip("pyproj")
        image = gt.open(self.scene(tmp_path / "i.tif", (100, 120), (10, 0, 500000, 0, -10, 4600000)))
        corners = [(500200, 4599800), (500900, 4599800), (500900, 4599300), (500200, 4599300)]
        expected = np.zeros((100, 120), bool)
        expected[20:70, 20:90] = True
        crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
        named = {"type": "Polygon", "coordinates": [[*corners, corners[0]]], "crs": crs}
        assert np.array_equal(selection_of(image, named, "nodata").window(Region(0, 0, 100, 120)), expected)
        to_degrees = pyproj.Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True)
        plain = {"type": "Polygon", "coordinates": [[to_degrees.transform(*corner) for corner in corners]]}
        got = selection_of(image, plain, "nodata").window(Region(0, 0, 100, 120))
        # Sides lie on edges of pixels, half a pixel from all centres.
        assert np.array_equal(got, expected)
        with pytest.raises(UsageError, match="places that exist"):
            selection_of(image, {"type": "Polygon", "coordinates": [corners]}, "nodata")
        with pytest.raises(UsageError, match=r"found polygons from x -\d{5}.* in these. Boxes"):
            selection_of(image, {"type": "Polygon", "coordinates": [[[9, 9], [9, 10], [10, 10]]]}, "nodata")

    def test_polygons_across_the_180th_meridian_are_cut_there_or_count_on(self, tmp_path):
        pytest.importorskip("pyproj")
        image = gt.open(
            self.scene(tmp_path / "i.tif", (100, 120), (1000, 0, 650000, 0, -1000, 5800000), crs="EPSG:32660")
        )

        def kept(*boxes):
            rings = [[[x0, 51.7], [x1, 51.7], [x1, 52.1], [x0, 52.1]] for x0, x1 in boxes]
            roi = {"type": "MultiPolygon", "coordinates": [[ring] for ring in rings]}
            return selection_of(image, roi, "nodata").window(Region(0, 0, 100, 120))

        cut = kept((179.5, 180), (-180, -179.7))
        assert 45 * 50 < cut.sum() < 45 * 60, "0.8 degrees of 69 km, 0.4 of 111 km"
        assert np.array_equal(kept((179.5, 180.3)), cut)
        with pytest.raises(UsageError, match=r"the long way round.*RFC 7946"):
            kept((179.5, -179.7))


SQUARE = {"type": "Polygon", "coordinates": [[[10, 20], [60, 20], [60, 90], [10, 90], [10, 20]]]}


class TestGeoJson:
    image = gt.open(noise((3, 100, 120)), axes="cyx")

    @pytest.mark.parametrize(
        "wrapped",
        [
            SQUARE,
            {"type": "Feature", "geometry": SQUARE, "properties": None},
            {"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": SQUARE, "properties": {}}]},
            {"type": "GeometryCollection", "geometries": [SQUARE]},
            {"type": "MultiPolygon", "coordinates": [SQUARE["coordinates"]]},
            [{"type": "Feature", "geometry": SQUARE}],
        ],
    )
    def test_however_it_is_wrapped(self, tmp_path, wrapped):
        path = tmp_path / "roi.geojson"
        path.write_text(json.dumps(wrapped))
        kept = selection_of(self.image, str(path), "none").window(Region(0, 0, 100, 120))
        expected = np.zeros((100, 120), bool)
        expected[20:90, 10:60] = True
        assert np.array_equal(kept, expected)

    def test_without_a_transform_polygons_of_a_scene_have_no_pixels(self):
        source = UnitSource(noise((3, 100, 120)), (50, 60))
        source._info = replace(source.info, crs="EPSG:32618")
        with pytest.raises(UsageError, match=r"control points only. .*--roi XMIN"):
            selection_of(Image(source), SQUARE, "none")
        assert selection_of(Image(source), "10,20,60,90", "none").bounds == Region(20, 10, 90, 60)

    def test_holes_are_left_out(self):
        hole = [[20, 30], [30, 30], [30, 40], [20, 40]]
        kept = selection_of(self.image, {**SQUARE, "coordinates": [*SQUARE["coordinates"], hole]}, "none")
        assert kept.window(Region(0, 0, 100, 120)).sum() == 70 * 50 - 100

    @pytest.mark.parametrize(
        ("given_", "told"),
        [
            ({"type": "Point", "coordinates": [1, 2]}, "Points and lines have no area"),
            ({"type": "FeatureCollection", "features": []}, "at least one polygon"),
            ({"type": "Polygon", "coordinates": [[[1, 2], [3, 4]]]}, "at least 3 positions"),
            ({"type": "Polygon", "coordinates": [[["a", 2], [3, 4], [5, 6]]]}, "positions"),
            ({**SQUARE, "crs": {"properties": {"name": "EPSG:4326"}}}, "pixels of level 0"),
            ({"type": "Polygon", "coordinates": 5}, "a list as coordinates, found 5"),
            ({"type": "MultiPolygon", "coordinates": [5]}, "a list as coordinates, found 5"),
            ({"type": "FeatureCollection", "features": {"a": 1}}, "a list as features"),
            ({"type": "GeometryCollection", "geometries": "all"}, "a list as geometries"),
            ({"type": "Polygon", "coordinates": [[[1, 1], [1.2, 1], [1, 1.2]]]}, "from x 1, y 1 to x 1.2, y 1.2"),
            ("300,300,400,400", "120 x 100 pixels of level 0, found 300,300,400,400"),
            ("10,10,5,20", "XMIN < XMAX"),
            ("a,b", "XMIN,YMIN"),
            (17, "a Region, a path"),
        ],
    )
    def test_what_makes_no_sense_is_told(self, given_, told):
        with pytest.raises(UsageError, match=told):
            selection_of(self.image, given_, "none")

    def test_a_file_that_is_no_geojson_is_told(self, tmp_path):
        (tmp_path / "x.geojson").write_text("{")
        with pytest.raises(UsageError, match="expected GeoJSON"):
            selection_of(self.image, tmp_path / "x.geojson", "none")
        (tmp_path / "x.geojson").write_text("[" * 9999 + "]" * 9999)
        with pytest.raises(UsageError, match="a thousand deep"):
            selection_of(self.image, tmp_path / "x.geojson", "none")
        nested = SQUARE
        for _ in range(2000):
            nested = {"type": "GeometryCollection", "geometries": [nested]}
        with pytest.raises(UsageError, match="a thousand deep"):
            selection_of(self.image, nested, "none")
        with pytest.raises(ImageError, match="nothing at that path"):
            selection_of(self.image, tmp_path / "y.geojson", "none")
