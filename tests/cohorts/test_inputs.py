"""Which images a run is about, and what each is called."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigatile.cohorts.inputs import as_cohort, check_literal, resolve_inputs
from gigatile.cohorts.names import (
    Known,
    assign_names,
    file_bytes,
    folded,
    is_reserved,
    location_of,
    safe_name,
    without_suffix,
)
from gigatile.errors import ImageError, UsageError


def touch(folder, *paths):
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()


def names(inputs):
    return {entry.shown: entry.name for entry in inputs.entries}


def refused(kind, images, listing=None, known=()):
    with pytest.raises(kind) as error:
        resolve_inputs(images, listing, known)
    return str(error.value)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Names


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("a.ome.tif", "a"),
        ("a.OME.TIFF", "a"),
        ("a.svs", "a"),
        ("a.b.ndpi", "a.b"),
        ("a.ome.zarr", "a"),
        ("a.zarr", "a"),
        ("S2A_MSIL2A_20230101.SAFE", "S2A_MSIL2A_20230101"),
        ("scene.json", "scene"),
        ("a (1) b.tif", "a (1) b"),
        ("a.dat", "a.dat"),
        (".tif", ".tif"),
    ],
)
def test_known_suffixes_are_no_part_of_a_name(file, name):
    assert without_suffix(file) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("..", "__"),
        ("../../x", "__" + "_.._x"),
        (".hidden", "_hidden"),
        ("a/b\\c:d*e?f", "a_b_c_d_e_f"),
        ("a\nb\0c\x7fd\u202ee", "a_b_c_d_e"),
        ("CON", "_CON"),
        ("nul.txt", "_nul.txt"),
        ("COM1", "_COM1"),
        ("console", "console"),
        ("a. ", "a__"),
        ("slide (2) final", "slide (2) final"),
        ("", "_"),
        ("\udcff", "_"),
    ],
)
def test_names_are_safe_file_names(text, name):
    assert safe_name(text) == name


@given(st.text(max_size=400))
def test_a_safe_name_stays_as_it_is_and_stays_inside_its_folder(text):
    name = safe_name(text)
    assert safe_name(name) == name
    assert name not in {"", ".", ".."}
    assert len(name.encode()) <= 200
    assert not set(name) & set('/\\\0<>:"|?*')
    assert not name.startswith(".")


def test_long_names_are_told_apart_by_what_was_cut_off():
    assert safe_name("x" * 300 + "1") != safe_name("x" * 300 + "2")


PARTS = st.lists(st.sampled_from(["a", "A", "p", "a.tif", "a.svs", "CON", "lock"]), min_size=1, max_size=4)


@given(PARTS, st.randoms())
def test_one_name_is_assigned_to_one_location(parts, random):
    others = {f"/{a}/{b}/{c}" for a in "pqA" for b in "pa" for c in ("a.tif", "a.svs", "A.tif", "lock", "CON")}
    locations = sorted({"/" + "/".join(parts), *others})
    found = dict(zip(locations, assign_names(locations, lambda name, location: False), strict=True))
    assert len({folded(name) for name in found.values()}) == len(locations)
    assert not any(is_reserved(name) or safe_name(name) != name for name in found.values())
    random.shuffle(locations)
    assert dict(zip(locations, assign_names(locations, lambda name, location: False), strict=True)) == found


def test_all_that_collide_carry_their_folder(here):
    touch(here, "old/a.tif", "new/a.svs", "new/b.svs")
    found = resolve_inputs(["old/a.tif", "new"])
    assert names(found) == {"old/a.tif": "old__a", "new/a.svs": "new__a", "new/b.svs": "b"}


def test_more_folders_are_taken_until_names_differ(here):
    touch(here, "p/s/a.tif", "q/s/a.tif")
    assert names(resolve_inputs(["*/s/a.tif"])) == {"p/s/a.tif": "p__s__a", "q/s/a.tif": "q__s__a"}


def test_two_suffixes_in_one_folder_are_told_apart(here):
    touch(here, "s/a.tif", "s/a.svs")
    assert names(resolve_inputs(["s"])) == {"s/a.tif": "s__a.tif", "s/a.svs": "s__a.svs"}


def test_names_that_differ_in_case_collide(here):
    touch(here, "p/a.tif", "q/A.tif")
    assert set(names(resolve_inputs(["p", "q"])).values()) == {"p__a", "q__A"}


def test_a_made_up_name_does_not_hit_that_of_another_image(here):
    touch(here, "p/a.tif", "q/a.tif", "r/p__a.tif")
    found = names(resolve_inputs(["p", "q", "r"]))
    assert len({name.casefold() for name in found.values()}) == 3


def test_what_a_cohort_keeps_in_its_directory_is_no_name(here):
    touch(here, "s/lock.tif", "s/ledger.tif")
    assert sorted(names(resolve_inputs(["s"])).values()) == ["s__ledger", "s__lock"]


# Known images


def test_known_images_keep_their_names_and_newcomers_give_way(here):
    touch(here, "old/a.tif", "new/a.tif")
    before = resolve_inputs(["old/*.tif"])
    known = [Known(entry.name, entry.location) for entry in before.entries]
    assert names(before) == {"old/a.tif": "a"}
    after = resolve_inputs(["*/a.tif"], known=known)
    assert names(after) == {"new/a.tif": "new__a", "old/a.tif": "a"}
    assert names(resolve_inputs(["new/*.tif"], known=known)) == {"new/a.tif": "new__a"}
    assert after.notes == ()


def test_a_known_image_is_known_from_another_working_directory(here, monkeypatch):
    touch(here, "s/a.tif", "t/a.tif")
    known = [Known("a", str(here / "s/a.tif"))]
    monkeypatch.chdir(here / "s")
    assert names(resolve_inputs(["../t/a.tif", "./a.tif"], known=known)) == {"../t/a.tif": "t__a", "./a.tif": "a"}


def test_names_given_before_outlive_a_collision_of_today(here):
    """Both were added one by one: today's rule would call both by their folders."""
    touch(here, "p/a.tif", "q/a.tif")
    known = [Known("a", str(here / "p/a.tif")), Known("q__a", str(here / "q/a.tif"))]
    assert set(names(resolve_inputs(["p", "q"], known=known)).values()) == {"a", "q__a"}


def test_a_folder_that_moved_keeps_the_names_of_its_images(here):
    touch(here, "moved/s1/a.tif", "moved/s2/a.tif")
    known = [Known("s1__a", str(here / "s1/a.tif")), Known("s2__a", str(here / "s2/a.tif"), 0)]
    found = resolve_inputs(["moved/**/*.tif"], known=known)
    assert names(found) == {"moved/s1/a.tif": "s1__a", "moved/s2/a.tif": "s2__a"}
    assert len(found.notes) == 2
    assert "s1/a.tif is gone" in found.notes[0]


def test_another_image_of_the_name_of_one_that_is_gone_is_told_apart_by_its_size(here):
    """As on two drives with the same file names, of which one is attached at a time."""
    (here / "two").mkdir()
    (here / "two" / "a.tif").write_bytes(b"12345")
    size = file_bytes(str(here / "two/a.tif"))
    assert size == 5
    for nbytes, name in ((5, "a"), (4, "two__a"), (None, "a")):
        known = [Known("a", str(here / "one/a.tif"), nbytes)]
        assert list(names(resolve_inputs(["two/*"], known=known)).values()) == [name]


def test_an_image_that_a_list_renamed_keeps_its_last_name(here):
    touch(here, "lists/a.tif", "b/old.tif")
    known = [Known("old", str(here / "lists/a.tif"))]
    found = resolve_inputs([], write_list(here, "image,name\na.tif,new\n"), known)
    assert [entry.name for entry in found.entries] == ["new"]
    assert "is called new from now on; what is in old stays there" in found.notes[0]
    known.append(Known("new", str(here / "lists/a.tif")))
    assert list(names(resolve_inputs(["lists/*.tif", "b"], known=known)).values()) == ["new", "b__old"]


# Words, folders and patterns


def test_one_literal_path_is_no_cohort_and_several_are(here):
    touch(here, "a.tif", "b.tif")
    assert resolve_inputs(["a.tif"]).is_cohort is False
    assert resolve_inputs(["a.tif", "b.tif"]).is_cohort is True
    assert as_cohort(resolve_inputs(["a.tif"])).is_cohort is True


@pytest.mark.parametrize("word", ["s", "s/", "s/*.tif", "**/*.tif", "s/a?b.tif", "s/[a]*.tif"])
def test_a_folder_and_a_pattern_are_cohorts_even_of_one(here, word):
    touch(here, "s/a1b.tif")
    found = resolve_inputs([word])
    assert found.is_cohort
    assert list(names(found)) == ["s/a1b.tif"]


def test_a_path_with_the_characters_of_patterns_is_literal_where_it_exists(here):
    touch(here, "a[1].tif", "a1.tif", "b*.tif")
    for word in ("a[1].tif", "b*.tif"):
        found = resolve_inputs([word])
        assert (found.is_cohort, list(names(found))) == (False, [word])
    assert list(names(resolve_inputs(["a[0-9].tif"]))) == ["a1.tif"]


def test_images_are_in_natural_order(here):
    touch(here, *(f"s/a{n}.tif" for n in (10, 9, 1, 100, 2)))
    assert list(names(resolve_inputs(["s"]))) == [f"s/a{n}.tif" for n in (1, 2, 9, 10, 100)]
    assert list(names(resolve_inputs(["s/*"]))) == [f"s/a{n}.tif" for n in (1, 2, 9, 10, 100)]


def test_an_image_that_is_meant_twice_is_there_once(here):
    touch(here, "s/a.tif", "s/b.tif")
    assert list(names(resolve_inputs(["s/b.tif", "s", "./s/a.tif", "s/../s/*.tif"]))) == ["s/b.tif", "s/a.tif"]


def test_a_folder_says_what_it_left_out(here):
    touch(here, "s/a.tif", "s/notes.txt", "s/b.xml", "s/sub/c.tif", "s/.hidden.tif", "s/z.csv")
    (s := here / "s" / "d.ome.zarr").mkdir()
    found = resolve_inputs(["s"])
    assert names(found) == {"s/a.tif": "a", "s/d.ome.zarr": "d"}
    assert s.name == "d.ome.zarr"
    [note] = found.notes
    assert note.startswith("s: left out")
    assert "b.xml, notes.txt, sub and 1 more" in note


def test_a_zarr_is_one_image_by_its_name_or_by_its_metadata(here):
    touch(here, "a.zarr/zarr.json", "group/.zgroup", "b.zarr/0/zarr.json")
    for word in ("a.zarr", "group", "b.zarr", "b.zarr/0"):
        assert resolve_inputs([word]).is_cohort is False
    assert list(names(resolve_inputs(["*"]))) == ["a.zarr", "b.zarr", "group"]


def test_a_folder_of_dicom_files_is_one_image_unless_there_are_other_images_in_it(here):
    for folder in ("slides/a", "slides/b", "slides/mixed", "slides/empty"):
        (here / folder).mkdir(parents=True)
        if folder != "slides/empty":
            for name in ("1.dcm", "2.DCM"):
                (here / folder / name).touch()
    (here / "slides/mixed/c.tif").touch()
    single = resolve_inputs(["slides/a"])
    assert ([entry.image for entry in single.entries], single.is_cohort) == (["slides/a"], False)
    for word in ("slides", "slides/*"):
        found = resolve_inputs([word])
        assert ([entry.image for entry in found.entries], found.is_cohort) == (["slides/a", "slides/b"], True)
    mixed = resolve_inputs(["slides/mixed"])
    assert ([entry.image for entry in mixed.entries], mixed.is_cohort) == (["slides/mixed/c.tif"], True)
    check_literal("slides/a")


def test_a_safe_product_is_one_image_by_its_name_or_its_manifest(here):
    band = "GRANULE/L2A/IMG_DATA/R10m/T31_B04_10m.jp2"
    touch(here, f"in/a.SAFE/{band}", f"in/renamed/{band}", "in/renamed/manifest.safe", "in/c.tif", "in/other/x.txt")
    for word in ("in/a.SAFE", "in/a.SAFE/", "in/renamed"):
        single = resolve_inputs([word])
        assert ([entry.image for entry in single.entries], single.is_cohort) == ([word], False)
        check_literal(word)
    for word in ("in", "in/*"):
        assert names(resolve_inputs([word])) == {"in/a.SAFE": "a", "in/c.tif": "c", "in/renamed": "renamed"}
    assert names(resolve_inputs(["**/*.SAFE"])) == {"in/a.SAFE": "a"}
    assert f"in/a.SAFE/{band}" not in names(resolve_inputs(["**/*"]))
    assert list(names(resolve_inputs(["in/a.SAFE/**/*_B04_10m.jp2"]))) == [f"in/a.SAFE/{band}"]


def test_items_are_images_where_they_are_named(here):
    touch(here, "in/a.json", "in/b.json", "in/c.tif")
    assert names(resolve_inputs(["in/*.json"])) == {"in/a.json": "a", "in/b.json": "b"}
    assert list(names(resolve_inputs(["in"]))) == ["in/c.tif"]


def test_patterns_look_neither_into_zarrs_nor_into_results(here):
    touch(
        here, "in/a.zarr/zarr.json", "in/a.zarr/c/x.tif", "in/raw/.zgroup", "in/raw/y.tif", "in/b.tif", "in/deep/c.tif"
    )
    touch(
        here, "out/run.json", "out/prediction.zarr/zarr.json", "out/x.tif", "co/summary.json", "co/a/prediction.zarr/z"
    )
    assert list(names(resolve_inputs(["**/*.tif"]))) == ["in/b.tif", "in/deep/c.tif"]
    assert list(names(resolve_inputs(["**/*.zarr"]))) == ["in/a.zarr"]
    assert list(names(resolve_inputs(["**"]))) == ["in/a.zarr", "in/b.tif", "in/deep/c.tif", "in/raw"]
    assert list(names(resolve_inputs(["co/*/prediction.zarr"]))) == ["co/a/prediction.zarr"]


def test_a_suffix_that_is_spelled_out_is_taken_at_its_word(here):
    touch(here, "s/a.dat", "s/b.tif", "s/c.txt")
    assert list(names(resolve_inputs(["s/*.dat"]))) == ["s/a.dat"]
    assert list(names(resolve_inputs(["s/*"]))) == ["s/b.tif"]


def test_links_are_followed_but_not_in_circles(here):
    touch(here, "s/a.tif")
    (here / "s" / "round").symlink_to(here / "s")
    (here / "s" / "gone.tif").symlink_to(here / "nowhere.tif")
    assert list(names(resolve_inputs(["**/*.tif"]))) == ["s/a.tif", "s/gone.tif"]
    assert list(names(resolve_inputs(["s/round/a.tif"]))) == ["s/round/a.tif"]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("none.tif", "none.tif: expected an image file or Zarr, found nothing"),
        ("s/aa.tif", "Did you mean 'a.tif'?"),
        ("none/a.tif", "There is no directory 'none'"),
        ("s/*.svs", "s/*.svs: expected images there, found none"),
        ("s/*.x*", "found none"),
        ("text", "text: expected images there, found none, but a.txt"),
        ("empty", "empty: expected images there, found none"),
        ("text/*", "found none, but a.txt"),
    ],
)
def test_nothing_there_is_one_clear_error(here, word, told):
    touch(here, "s/a.tif", "text/a.txt")
    (here / "empty").mkdir()
    assert told in refused(ImageError, [word])
    assert told in refused(ImageError, ["s/a.tif", word])


def test_a_folder_of_jpeg_2000_is_a_folder_of_images(here):
    touch(here, "scene/B02.jp2", "scene/B03.jp2", "scene/MTD.xml", "scene/all.vrt")
    assert list(names(resolve_inputs(["scene"])).values()) == ["B02", "B03"]


def test_stacked_files_are_one_image(here):
    touch(here, "s/a.tif", "s/b.tif", "a+b.tif", "c.tif")
    inputs = resolve_inputs(["s/a.tif+s/b.tif+c.tif"])
    assert list(names(inputs).values()) == ["a+b+c"]
    assert not inputs.is_cohort
    assert inputs.entries[0].location == f"{here}/s/a.tif+{here}/s/b.tif+{here}/c.tif"
    assert list(names(resolve_inputs(["a+b.tif"])).values()) == ["a+b"]
    assert list(names(resolve_inputs(["a+b.tif+c.tif"])).values()) == ["a+b+c"]


def test_a_file_of_a_stack_that_is_not_there_is_the_one_that_is_named(here):
    touch(here, "a.tif")
    assert refused(ImageError, ["a.tif+none.tif"]).startswith("none.tif: expected an image file")


def test_stacked_files_of_a_list_lie_in_its_folder(here):
    touch(here, "lists/a.tif", "lists/b.tif")
    (here / "lists/l.csv").write_text("image\na.tif+b.tif\n")
    inputs = resolve_inputs([], "lists/l.csv")
    assert [entry.image for entry in inputs.entries] == ["lists/a.tif+lists/b.tif"]
    assert not inputs.entries[0].problem
    (here / "lists/l.csv").write_text("image\na.tif+none.tif\na.tif\n")
    assert "lists/none.tif: expected an image file" in resolve_inputs([], "lists/l.csv").entries[0].problem


def test_the_name_of_a_stack_stays_with_it_while_its_files_are_there(here):
    touch(here, "a.tif", "b.tif", "new/a+b.tif")
    first = resolve_inputs(["a.tif+b.tif", "a.tif"])
    known = [Known(entry.name, entry.location) for entry in first.entries]
    assert list(names(resolve_inputs(["new/a+b.tif", "a.tif"], known=known)).values()) == ["new__a+b", "a"]


def test_images_and_a_list_exclude_each_other_and_one_is_needed(here):
    touch(here, "a.tif")
    assert "found both" in refused(UsageError, ["a.tif"], "list.csv")
    assert "found neither" in refused(UsageError, [])


def test_one_image_is_one_image():
    check_literal(__file__)
    check_literal("s3://bucket/a.tif")
    for word, kind in ((str(Path(__file__).parent), UsageError), ("*.tif", UsageError), ("none.tif", ImageError)):
        with pytest.raises(kind):
            check_literal(word)


# URLs


class Files:
    """What `gigatile.storage.files` says of a bucket."""

    def __init__(self, keys):
        self.keys = keys

    def glob(self, url):
        from fnmatch import fnmatchcase

        return [key for key in self.keys if fnmatchcase(key, url) and key.count("/") == url.count("/")]

    def is_prefix(self, url):
        return any(key.startswith(f"{url.rstrip('/')}/zarr.json") for key in self.keys)


@pytest.fixture
def bucket(monkeypatch):
    import sys

    import gigatile.storage

    keys = ["s3://b/s/a.svs", "s3://b/s/c.tif", "s3://b/s/n.txt", "s3://b/group/zarr.json", "s3://b/plain"]
    fake = Files(keys)
    monkeypatch.setitem(sys.modules, "gigatile.storage.files", fake)
    monkeypatch.setattr(gigatile.storage, "files", fake, raising=False)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("s3://b/s/*.svs", ["s3://b/s/a.svs"]),
        ("s3://b/s/", ["s3://b/s/a.svs", "s3://b/s/c.tif"]),
        ("s3://b/s", ["s3://b/s/a.svs", "s3://b/s/c.tif"]),
        ("s3://b/s/*", ["s3://b/s/a.svs", "s3://b/s/c.tif"]),
        ("s3://b/s/*.txt", ["s3://b/s/n.txt"]),
    ],
)
def test_patterns_and_prefixes_of_buckets_are_cohorts(bucket, url, found):
    inputs = resolve_inputs([url])
    assert inputs.is_cohort
    assert list(names(inputs)) == found


@pytest.mark.parametrize("url", ["s3://b/x.svs", "s3://b/group", "s3://b/plain", "https://host/a?x=1"])
def test_other_urls_are_one_image(bucket, url):
    assert resolve_inputs([url]).is_cohort is False


def test_a_bucket_without_images_is_an_error(bucket):
    assert "found none" in refused(ImageError, ["s3://b/none/"])
    assert "found none" in refused(ImageError, ["s3://b/*.svs"])


@pytest.mark.parametrize("scheme", ["ftp", "s4", "file2"])
def test_a_scheme_that_nothing_is_known_of_is_refused(here, scheme):
    assert f"found {scheme}://" in refused(UsageError, [f"{scheme}://x/a.tif"])
    with pytest.raises(UsageError, match=f"found {scheme}://"):
        check_literal(f"{scheme}://x/a.tif")


def test_a_file_url_is_a_path(here):
    touch(here, "s/a.tif")
    assert list(names(resolve_inputs([f"file://{here}/s/a.tif"]))) == [f"{here}/s/a.tif"]
    assert resolve_inputs([f"file://{here}/s"]).is_cohort


def test_secrets_of_urls_are_in_no_name_location_or_repr():
    url = "https://ann:hunter2@host:8443/slides/my%20slide.svs?X-Amz-Signature=topsecret#top"
    inputs = resolve_inputs([url])
    [entry] = inputs.entries
    assert entry.image == url
    assert entry.name == "my slide"
    assert entry.shown == entry.location == "https://host:8443/slides/my%20slide.svs"
    assert not any(secret in repr(inputs) for secret in ("hunter2", "topsecret", "ann:"))


def test_urls_that_differ_in_their_secrets_alone_are_refused():
    told = refused(UsageError, ["https://h/a.tif?id=1", "https://h/a.tif?id=2"])
    assert "differ in more than their queries" in told
    assert "id=" not in told


# Lists


def write_list(here, text, folder="lists"):
    (here / folder).mkdir(exist_ok=True)
    path = here / folder / "list.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return f"{folder}/list.csv"


def test_a_list_gives_paths_relative_to_itself_names_and_options(here):
    touch(here, "lists/a.tif", "b.tif", "c.tif")
    text = f'\ufeffimage,name,level,channels\r\na.tif,first,0,"0,1"\r\n\r\n../b.tif,two,1,red\r\n{here}/c.tif,3,2,1\r\n'
    inputs = resolve_inputs([], write_list(here, text))
    assert inputs.is_cohort
    assert [(e.name, e.image) for e in inputs.entries] == [
        ("first", "lists/a.tif"),
        ("two", "lists/../b.tif"),
        ("3", f"{here}/c.tif"),
    ]
    assert [dict(entry.options) for entry in inputs.entries] == [
        {"level": "0", "channels": "0,1"},
        {"level": "1", "channels": "red"},
        {"level": "2", "channels": "1"},
    ]
    assert [entry.origin for entry in inputs.entries] == [f"lists/list.csv, line {n}" for n in (2, 4, 5)]


def test_a_list_keeps_its_order_and_names_of_one_column_are_made_up(here):
    touch(here, "lists/b/x.tif", "lists/a/x.tif", "lists/a/y.tif")
    found = resolve_inputs([], write_list(here, "image\nb/x.tif\na/y.tif\na/x.tif\ns3://bucket/z.svs\n"))
    assert list(names(found).values()) == ["b__x", "y", "a__x", "z"]


def test_names_of_a_list_win_over_made_up_ones(here):
    touch(here, "lists/a.tif", "lists/p/b.tif")
    found = resolve_inputs([], write_list(here, "image,name\np/b.tif,a\na.tif,c\n"))
    assert list(names(found).values()) == ["a", "c"]
    known = [Known("a", str(here / "lists/a.tif"))]
    assert list(names(resolve_inputs([], write_list(here, "image,name\na.tif,z\n"), known)).values()) == ["z"]


def test_a_missing_image_of_a_list_is_a_problem_of_that_image_alone(here):
    touch(here, "lists/a.tif")
    first, second = resolve_inputs([], write_list(here, "image\na.tif\nnone.tif\n")).entries
    assert first.problem == ""
    assert "lists/list.csv, line 3: lists/none.tif: expected an image" in second.problem


def test_a_list_of_nothing_but_missing_images_is_refused(here):
    told = refused(ImageError, [], write_list(here, "image\na.tif\nb.tif\n"))
    assert "none of 2; the first is lists/a.tif" in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected a column 'image', found an empty file"),
        ("image\n", "found a header only"),
        ("image;name\na;b\n", "line 1: expected columns with commas between them"),
        ("path\na.tif\n", "line 1: expected known columns, found 'path'"),
        ("Image\na.tif\n", "Did you mean 'image'?"),
        ("name\na\n", "expected a column 'image', found name"),
        ("image,image\na.tif,a.tif\n", "two called 'image'"),
        ("image,tile\na.tif,512\n", "found 'tile'"),
        ("image,name\na.tif,x\nb.tif,X\n", "line 3: name: expected each name once"),
        ("image,name\na.tif,\n", "line 2: name: expected a value, found an empty cell"),
        ("image,level\n,0\n", "line 2: image: expected a value"),
        ("image,level\na.tif\n", "line 2: expected 2 cells, found 1"),
        ("image\na.tif,b\n", "line 2: expected 1 cells, found 2"),
        ('image\n"a.tif\n', "line 2: expected CSV"),
        ("image\na.tif\n./a.tif\n", "line 3: lists/a.tif: expected each image once, found the image of"),
        ("image,name\na.tif,../x\n", "line 2: name: expected a name"),
        ("image,name\na.tif,summary.json\n", "line 2: name: expected a name"),
        (b"image\na.tif\nb\xff.tif\n", "line 3: expected UTF-8"),
        ("image\na.tif\nb.tif\n".encode("utf-16"), "expected UTF-8"),
        ("image\nftp://h/a.tif\n", "line 2: ftp://h/a.tif: expected a path, or a URL of"),
        ("image\na\0.tif\n", "line 2"),
        ("image\n~nobody-of-that-name/a.tif\n", "line 2"),
    ],
)
def test_a_wrong_list_is_one_clear_error(here, text, told):
    touch(here, "lists/a.tif", "lists/b.tif")
    message = refused(UsageError, [], write_list(here, text))
    assert told in message
    assert "list.csv" in message


def test_a_list_that_is_not_there_or_no_file_is_refused(here):
    (here / "folder").mkdir()
    assert "found nothing at that path" in refused(UsageError, [], "none.csv")
    assert "expected a list that can be read" in refused(UsageError, [], "folder")


def test_a_name_that_is_given_may_be_that_of_an_earlier_image_whose_run_will_tell(here):
    touch(here, "lists/a.tif", "lists/b.tif")
    known = [Known("a", str(here / "lists/a.tif"))]
    listing = write_list(here, "image,name\nb.tif,a\na.tif,c\n")
    assert [entry.name for entry in resolve_inputs([], listing, known).entries] == ["a", "c"]


# Size


def test_ten_thousand_images_are_resolved_without_a_look_at_each(here, monkeypatch):
    folder = here / "s"
    folder.mkdir()
    for n in range(10_000):
        (folder / f"slide {n}.svs").touch()
    looks = 0
    exists = Path.exists

    def counted(self, **how):
        nonlocal looks
        looks += 1
        return exists(self, **how)

    monkeypatch.setattr(Path, "exists", counted)
    found = resolve_inputs(["s"])
    known = [Known(entry.name, entry.location, 0) for entry in found.entries]
    again = resolve_inputs(["s/*.svs"], known=known)
    assert [entry.name for entry in again.entries] == [f"slide {n}" for n in range(10_000)]
    assert looks < 10


def test_locations_are_absolute_without_secrets_and_printable(here):
    assert location_of("s/../a.tif") == str(here / "a.tif")
    assert location_of("b\udcff.tif") == str(here / "b\\udcff.tif")
