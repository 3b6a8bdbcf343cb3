"""What is typed becomes the value meant, or an error that says what to type."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigatile.cli import values as v
from gigatile.errors import UsageError

HERE = v.Where("overlap")


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (v.number, "1/255", 1 / 255),
        (v.number, "-3e-2", -0.03),
        (v.tile, "512", (512, 512)),
        (v.tile, "256,512", (256, 512)),
        (v.channels, "0,2,1", (0, 2, 1)),
        (v.channels, "red, DAPI,3", ("red", "DAPI", 3)),
        (v.many(v.number), "0.5,-1/4", (0.5, -0.25)),
        (v.size, "2GiB", 2 * 2**30),
        (v.border, "constant:-1.5", "constant:-1.5"),
        (v.border, "symmetric", "symmetric"),
        (v.device, "cuda:1", "cuda:1"),
        (v.executor, "tcp://10.0.0.5:8786", "tcp://10.0.0.5:8786"),
        (v.or_auto(v.whole(least=1, example=4)), "auto", None),
        (v.or_auto(v.whole(least=1, example=4)), "8", 8),
        (v.normalize, "percentile:1,99", "percentile:1,99"),
        (v.roi, "0,0,10,20", "0,0,10,20"),
        (v.roi, "area.geojson", "area.geojson"),
    ],
)
def test_typed_text_becomes_its_value(parse, text, value):
    assert parse(text, HERE) == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (v.number, "1/0"),
        (v.number, "nan"),
        (v.number, "a"),
        (v.positive, "0"),
        (v.nonzero, "0"),
        (v.tile, "1,2,3"),
        (v.tile, "0"),
        (v.tile, "-512"),
        (v.tile, "512px"),
        (v.channels, "0,,1"),
        (v.channels, ""),
        (v.size, "2 gallons"),
        (v.border, "constant:x"),
        (v.border, "wrap"),
        (v.device, "gpu"),
        (v.executor, "tcp://nowhere"),
        (v.executor, "dask"),
        (v.normalize, "percentile:99,1"),
        (v.roi, "0,0,10"),
        (v.roi, "area.shp"),
        (v.as_text, " "),
        (v.whole(least=1, example=2), "9" * 30),
    ],
)
def test_what_an_option_does_not_take_is_refused_with_its_name_and_the_text(parse, text):
    with pytest.raises(UsageError) as refused:
        parse(text, HERE)
    assert "--overlap" in str(refused.value)
    part = text.rpartition(",")[2].removeprefix("constant:")
    assert any(repr(shown) in str(refused.value) for shown in (text, part))


def test_a_file_of_polygons_in_another_format_is_told_how_to_convert_it():
    with pytest.raises(UsageError, match=r"FILE.geojson, found 'area.gpkg'. .*ogr2ogr"):
        v.roi("area.gpkg", v.Where("roi"))


def test_a_near_miss_is_pointed_out():
    with pytest.raises(UsageError, match="Did you mean 'gaussian'"):
        v.one_of("hann", "gaussian")("gausian", HERE)


def test_a_whole_number_with_a_point_is_told_what_to_type():
    with pytest.raises(UsageError, match=r"Type --overlap 64\."):
        v.whole(least=0, example=2)("64.0", HERE)


def test_a_message_about_a_file_names_file_and_key():
    where = v.Where("match_threshold", "p/pipeline.yaml")
    with pytest.raises(UsageError, match=r"p/pipeline\.yaml: match_threshold: expected a number"):
        v.number("high", where)
    assert where.typed(3) == "'match_threshold: 3'"


@pytest.mark.parametrize(
    ("text", "fraction"),
    [
        ("0.2", 0.2),
        (".25", 0.25),
        ("25%", 0.25),
        ("1/4", 0.25),
        ("64", None),
        ("1/0", None),
        ("1.5", None),
        ("0", None),
    ],
)
def test_fractions_are_recognised(text, fraction):
    assert v.fraction_of(text) == fraction


@given(st.integers(0, 10**6))
def test_whole_numbers_survive_the_way_through_text(value):
    assert v.whole(least=0, example=1)(str(value), HERE) == value


@given(st.text(max_size=8))
def test_any_text_is_a_value_or_a_usage_error(text):
    for parse in (v.number, v.tile, v.channels, v.border, v.device, v.executor, v.normalize, v.roi, v.size):
        try:
            parse(text, HERE)
        except UsageError:
            continue
