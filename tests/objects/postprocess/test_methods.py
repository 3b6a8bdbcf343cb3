"""Known shapes come back exactly, touching discs stay two, and far things change nothing."""

import numpy as np
import pytest
import shapely

from gigatile.objects.postprocess.parse import parse_postprocess
from gigatile.objects.postprocess.stardist import Outlines, lens, survivors
from tests.objects.postprocess.shapes import COLUMNS, ROWS, depth, disc, is_canonical, labelled, maps, touching

RAYS = 32


def star_maps(labels, rays=RAYS):
    """Probability (depth) and exact distances along rays to the edge of discs and any other star shape."""
    angles = 2 * np.pi * np.arange(rays) / rays
    out = np.zeros((1 + rays, *labels.shape), np.float32)
    out[0] = depth(labels)
    places = np.argwhere(labels > 0)
    own = labels[labels > 0]
    padded = np.pad(labels, 1)
    for k, angle in enumerate(angles):
        length, going = np.zeros(len(places)), np.ones(len(places), bool)
        while going.any():
            length[going] += 0.25
            ends = np.rint(places + length[:, None] * (np.sin(angle), np.cos(angle))).astype(int)
            ends = np.clip(ends + 1, 0, np.array(padded.shape) - 1)
            going &= padded[ends[:, 0], ends[:, 1]] == own
        out[1 + k][labels > 0] = length - 0.125
    return out


def flow_maps(labels):
    """Unit vectors towards the middle of each object, times five, and a logit of 6 or -6."""
    dy, dx = np.zeros(labels.shape), np.zeros(labels.shape)
    for number in range(1, labels.max() + 1):
        own = labels == number
        y, x = (v[own].mean() for v in (ROWS, COLUMNS))
        away = np.maximum(np.hypot(ROWS - y, COLUMNS - x), 1)
        dy[own], dx[own] = ((y - ROWS) / away)[own], ((x - COLUMNS) / away)[own]
    return maps(5 * dy, 5 * dx, np.where(labels > 0, 6, -6))


def perfect(method, labels):
    """A method, and the maps of a model that makes no mistake."""
    if method == "stardist":
        return parse_postprocess("stardist:prob=0.2"), star_maps(labels)
    if method == "flows":
        return parse_postprocess("flows"), flow_maps(labels)
    if method == "watershed:boundary":
        edge = (labels > 0) & (depth(labels) < 0.3)
        return parse_postprocess("watershed:boundary=1"), maps(labels > 0, edge)
    if method == "watershed:edt":
        return parse_postprocess("watershed:distance=edt,seed=11"), maps(labels > 0)
    if method == "watershed:distance":
        return parse_postprocess("watershed:distance=1"), maps(labels > 0, depth(labels))
    return parse_postprocess("components"), maps(labels > 0)


SPLITTING = ("watershed:distance", "watershed:boundary", "watershed:edt", "flows", "stardist")
ALL = ("components", *SPLITTING)


def agree(found, wanted):
    """IoU of each wanted object with what lies over most of it."""
    ious = []
    for number in range(1, wanted.max() + 1):
        own = wanted == number
        best = np.bincount(found[own]).argmax()
        ious.append((own & (found == best)).sum() / (own | (found == best)).sum() if best else 0)
    return np.array(ious)


@pytest.mark.parametrize("method", ["components", "watershed:distance", "watershed:boundary", "watershed:edt", "flows"])
def test_shapes_that_lie_apart_come_back_exactly(method):
    labels = labelled(disc(20, 25, 12), disc(70, 30, 13), disc(40, 90, 18))
    run, given = perfect(method, labels)
    np.testing.assert_array_equal(run(given), labels)


def test_polygons_come_back_within_a_pixel_of_their_edge():
    labels = labelled(disc(20, 25, 12), disc(70, 30, 13), disc(40, 90, 18))
    run, given = perfect("stardist", labels)
    found = run(given)
    assert found.max() == 3
    assert agree(found, labels).min() > 0.93


@pytest.mark.parametrize("method", SPLITTING)
def test_touching_discs_stay_two(method):
    labels = touching()
    run, given = perfect(method, labels)
    found = run(given)
    assert found.max() == 2
    assert agree(found, labels).min() > 0.9
    if method in ("watershed:distance", "watershed:boundary", "flows"):
        assert agree(found, labels).min() > 0.97


def test_components_join_what_touches():
    run, given = perfect("components", touching())
    assert run(given).max() == 1


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (0, 5), (32, 33)])
def test_empty_and_full_windows_of_any_shape_have_labels(method, shape):
    run, _ = perfect(method, touching())
    channels = {"components": 1, "watershed:edt": 1, "flows": 3, "stardist": 5}.get(method, 2)
    for value in (0.0, 1.0, np.nan):
        given = np.full((channels, *shape), value, np.float32)
        if method == "flows":
            given[:2] = 0
        given[2 if method == "flows" else 0] = value if value else -1
        found = run(given)
        assert found.shape == shape
        assert found.dtype == np.int32
        assert is_canonical(found)
        if value != 1:
            assert not found.any()


@pytest.mark.parametrize("method", ["components", "watershed:distance", "watershed:boundary"])
def test_a_foreground_that_fills_the_window_is_one_object(method):
    run, _ = perfect(method, touching())
    given = np.ones((1 if method == "components" else 2, 20, 30), np.float32)
    given[1:] = 0 if method == "watershed:boundary" else 1
    assert (run(given) == 1).all()


@pytest.mark.parametrize("method", ALL)
def test_labels_do_not_depend_on_what_lies_beyond_the_window(method):
    labels = labelled(touching() == 1, touching() == 2, disc(12, 110, 8), disc(84, 12, 8), disc(84, 100, 9))
    run, given = perfect(method, labels)
    whole = run(given)
    rows, columns = slice(18, 70), slice(16, 90)
    part = run(np.ascontiguousarray(given[:, rows, columns]))
    objects = np.unique(whole[rows, columns][whole[rows, columns] > 0])
    assert objects.size
    for rank, number in enumerate(objects, 1):
        np.testing.assert_array_equal(part == rank, whole[rows, columns] == number)


def test_equal_values_are_shared_out_the_same_way_in_every_window():
    rng = np.random.default_rng(7)
    run = parse_postprocess("watershed:distance=1,min_area=1")
    clump = disc(30, 30, 14) | disc(30, 56, 14)
    # few levels: many ties
    inner = np.round(rng.random((96, 128)) * 4) / 4
    given = maps(clump, inner)
    whole = run(given)
    noisy = given.copy()
    far = np.s_[:, 60:, :]
    noisy[far] = rng.random(noisy[far].shape).astype(np.float32)
    np.testing.assert_array_equal(run(noisy)[:58], whole[:58])
    np.testing.assert_array_equal(run(np.ascontiguousarray(given[:, 10:50, 5:80])), whole[10:50, 5:80])


def test_parts_without_a_seed_are_objects_only_if_they_are_kept():
    labels = labelled(disc(30, 30, 10), disc(30, 80, 10))
    given = maps(labels > 0, np.where(labels == 1, depth(labels), 0.1 * (labels == 2)))
    np.testing.assert_array_equal(parse_postprocess("watershed:distance=1")(given), labels)
    alone = parse_postprocess("watershed:distance=1,unseeded=drop")(given)
    np.testing.assert_array_equal(alone, np.where(labels == 1, 1, 0))


def test_neighbouring_classes_are_two_objects_and_ties_go_to_the_lower_class():
    given = np.zeros((3, 10, 20), np.float32)
    given[0], given[1, 2:8, 2:10], given[2, 2:8, 10:18] = 0.4, 0.6, 0.6
    found = parse_postprocess("components:min_area=1")(given)
    np.testing.assert_array_equal(np.unique(found), [0, 1, 2])
    assert (found[2:8, 2:10] == 1).all()
    assert (found[2:8, 10:18] == 2).all()
    given[:] = 0.5
    assert not parse_postprocess("components")(given).any()


def test_nan_is_background():
    labels = labelled(disc(30, 30, 10))
    for method in ("components", "watershed:distance", "flows"):
        run, given = perfect(method, labels)
        given[:, 35:, :] = np.nan
        found = run(given)
        assert not found[35:].any()
        assert found[25:35].any()


def test_circles_only_save_work_and_decide_nothing_else():
    rng = np.random.default_rng(3)
    centres = rng.integers(0, 60, (160, 2))
    lengths = (rng.uniform(4, 12, (160, 1)) * rng.uniform(0.6, 1, (160, 16))).astype(np.float32)
    outlines = Outlines(centres, lengths)
    polygons = outlines.polygons(np.arange(160))
    np.testing.assert_allclose(shapely.area(polygons), outlines.areas)
    alive, plain = np.ones(160, bool), []
    for i in range(160):
        if alive[i]:
            plain.append(i)
            common = shapely.area(shapely.intersection(polygons[i], polygons))
            alive &= common <= 0.4 * np.minimum(outlines.areas[i], outlines.areas)
    assert 5 < len(plain) < 100
    assert list(survivors(outlines, 0.4)) == plain


@pytest.mark.parametrize(("other", "apart", "area"), [(2, 5, 0), (1, 0.5, np.pi), (2, 0, 4 * np.pi), (9, 3, 4 * np.pi)])
def test_circles_apart_and_within_one_another_have_the_area_of_none_and_of_the_smaller(other, apart, area):
    assert lens(2.0, np.array([other], float), np.array([apart], float))[0] == pytest.approx(area, abs=1e-6)


def test_two_unit_circles_through_each_others_centre_share_a_known_lens():
    found = lens(1.0, np.array([1.0]), np.array([1.0]))[0]
    assert found == pytest.approx(2 * np.pi / 3 - np.sqrt(3) / 2)
