"""Command lines of run and plan: defaults, checks, what is not built yet, and pipeline files under them."""

import re

import pytest

from gigatile.cli.options import ObjectOptions, read_options, run_parser
from gigatile.errors import UsageError

CONTRACT = """
--pipeline --model --device --task --output --activation --dtype --channels --scale --mean --std --normalize
--level --pixel-size --source-pixel-size --roi --mask --tile --overlap --margin --blend --border --multiscale --tta
--score --merge --match --match-threshold --agnostic --class-names --batch --memory --block --executor
--scheduler-file --workers --inputs --retry-failed --overwrite --on-bad-chunk --durable --no-durable --progress
--debug
"""


def read(line, command="run"):
    return read_options(run_parser(command, "..."), line.split())


def refused(line):
    with pytest.raises(UsageError) as error:
        read(f"a.tif -o out --model m:f {line}")
    return str(error.value)


def test_every_option_of_the_contract_is_in_the_help():
    text = run_parser("run", "...").format_help()
    assert [flag for flag in CONTRACT.split() if not re.search(rf"{flag}\b", text)] == []
    for group in ("what", "input", "where", "tiling", "objects", "cost", "life"):
        assert f"\n{group}: " in text


def test_defaults_are_those_of_the_contract():
    options = read("a.tif -o out --model m.onnx")
    assert (options.image, options.output_dir, options.model) == ("a.tif", "out", "m.onnx")
    assert (options.device, options.output, options.activation, options.mask) == ("auto", "classes", "none", "nodata")
    assert (options.level, options.border, options.executor) == (0, "reflect", "threads")
    assert (options.existing, options.durable, options.progress) == ("resume", True, "auto")
    automatic = (
        "dtype",
        "channels",
        "scale",
        "source_pixel_size",
        "tile",
        "overlap",
        "margin",
        "blend",
        "batch",
        "memory",
        "block",
        "workers",
    )
    assert {name: getattr(options, name) for name in automatic} == dict.fromkeys(automatic)
    assert options.mean == options.std == options.class_names == options.class_colors == ()


def test_every_option_reaches_its_field():
    options = read(
        "--source-pixel-size 0.25 "
        "--level 2 a.tif --model m:f -o out --device cpu --output raw --activation softmax --dtype float16 "
        "--channels 2,red --scale 1/255 --mean -1,.5 --std 1,2 --mask none --tile 512,256 --overlap 64 --margin 32 "
        "--blend trim --border constant:-1 --class-names a,b --batch 4 --memory 1GiB --block 4096 "
        "--executor processes --workers 3 --overwrite --no-durable --progress json --tta none --normalize none "
        "--multiscale 1,0.5"
    )
    assert (options.level, options.source_pixel_size) == (2, 0.25)
    assert (options.device, options.output, options.activation, options.dtype) == ("cpu", "raw", "softmax", "float16")
    assert (options.channels, options.scale) == ((2, "red"), 1 / 255)
    assert (options.mean, options.std, options.mask) == ((-1.0, 0.5), (1.0, 2.0), "none")
    assert (options.tile, options.overlap, options.margin) == ((512, 256), 64, 32)
    assert (options.blend, options.border, options.class_names) == ("trim", "constant:-1", ("a", "b"))
    assert (options.batch, options.memory, options.block) == (4, 2**30, 4096)
    assert (options.executor, options.workers, options.existing) == ("processes", 3, "overwrite")
    assert (options.durable, options.progress, options.multiscale) == (False, "json", (1.0, 0.5))


def test_auto_is_the_same_as_leaving_it_out():
    words = "--overlap auto --margin auto --batch auto --block auto --workers auto"
    assert read(f"a.tif -o o --model m:f {words}") == read("a.tif -o o --model m:f")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--overlap 0.2", "type --overlap 102."),
        ("--overlap 0.25 --tile 512", "type --overlap 128."),
        ("--overlap 25% --tile 256,1024", "type --overlap 64."),
        ("--overlap 1/4", "type --overlap 128."),
        ("--margin 0.1 --overlap 200", "type --margin 51."),
        ("--margin 0.1 --overlap 64", "cut to half of the overlap, type --margin 32."),
        ("--overlap 63", "Type --overlap 62 or --overlap 64."),
        ("--tile 512 --overlap 512", "less than the tile, 512 pixels, found 512"),
        ("--tile 512,256 --overlap 300", "type --overlap 64."),
        ("--overlap 64 --margin 33", "Type --margin 32 or less"),
        ("--level 1 --pixel-size 0.5", "--level and --pixel-size exclude each other"),
        ("--retry-failed --overwrite", "exclude each other"),
        ("--tiles 512", "unknown option --tiles. Did you mean '--tile'?"),
        ("--til 512", "unknown option --til."),
        ("--inputs list.csv", "--inputs and 'a.tif' exclude each other"),
        ("--level", "--level: expected one argument"),
    ],
)
def test_a_wrong_line_is_told_what_to_type(line, told):
    assert told in refused(line)


def test_a_refused_fraction_gives_an_overlap_that_is_accepted():
    for fraction in ("0.01", "0.2", "0.37", "0.5", "0.99"):
        typed = re.search(r"type (--overlap \d+)\.", refused(f"--tile 512 --overlap {fraction}"))[1]
        assert read(f"a.tif -o o --model m:f --tile 512 {typed}").overlap % 2 == 0


@pytest.mark.parametrize(
    "line",
    ["--score 0.5", "--merge nms", "--match iou", "--match-threshold 0.5", "--agnostic", "--boxes rows",
     "--postprocess components", "--task instances --merge nms", "--task detect --postprocess components",
     "--task detect --output classes", "--task instances --dtype uint8"],
)  # fmt: skip
def test_an_option_of_another_task_is_refused_and_never_ignored(line):
    option = next(word for word in line.split() if word.startswith("--") and word != "--task")
    assert refused(line).startswith(option)
    assert "--task" in refused(line)


def test_a_task_on_the_command_line_displaces_what_the_file_says_of_its_own(tmp_path):
    options = pipeline_line(tmp_path, "model: m:f\noutput: classes\ndtype: uint8\n", "--task instances")
    assert (options.task, options.output, options.dtype) == ("instances", None, None)


def test_options_of_objects_are_read():
    options = read("a.tif -o o --model m:f --task detect --merge wbf --match ios --match-threshold 0.4 --agnostic")
    assert options.objects == ObjectOptions("wbf", "ios", 0.4, True, None)
    assert read("a.tif -o o --model m:f").objects is None
    assert read("a.tif -o o --model m:f --task instances --postprocess flows").objects.postprocess == "flows"


def test_no_image_and_no_model_are_usage_errors():
    with pytest.raises(UsageError, match="no image given"):
        read("-o out --model m:f")
    with pytest.raises(UsageError, match="neither --model nor --pipeline"):
        read("a.tif -o out")


def test_a_pipeline_for_models_of_its_users_asks_for_one(tmp_path):
    with pytest.raises(UsageError, match=r"--pipeline mine: .*none in .*pipeline.yaml. Type --model FILE.onnx as well"):
        pipeline_line(tmp_path, "name: mine\ntile: 64\n")
    assert pipeline_line(tmp_path, "name: mine\ntile: 64\n", "--model m:f").model == "m:f"


def test_plan_takes_the_line_of_run_and_json():
    assert read("a.tif -o out --model m:f --json", "plan").json
    assert "unknown option --json" in refused("--json")


def pipeline_line(tmp_path, text, line=""):
    file = tmp_path / "pipeline.yaml"
    file.write_text(text)
    return read(f"a.tif -o out --pipeline {file} {line}")


def test_the_command_line_wins_over_the_pipeline_file(tmp_path):
    text = "model: m:f\ntile: 256\noverlap: 32\nblend: trim\n"
    options = pipeline_line(tmp_path, text, "--tile 512 --model other:f")
    assert (options.model, options.tile, options.overlap, options.blend) == ("other:f", (512, 512), 32, "trim")


def test_an_option_on_the_command_line_displaces_its_opposite_in_the_file(tmp_path):
    options = pipeline_line(tmp_path, "model: m:f\npixel_size: 0.5\nretry_failed: true\n", "--level 1 --overwrite")
    assert (options.level, options.existing) == (1, "overwrite")


def test_an_overridden_value_of_the_file_is_not_looked_at(tmp_path):
    assert pipeline_line(tmp_path, "model: m:f\nmask: tissue\n", "--mask none").mask == "none"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("overlap: 0.2\ntile: 256\n", "overlap: expected a number of pixels"),
        ("overlap: 0.2\ntile: 256\n", "type 'overlap: 52'."),
        ("blend: hamm\n", "blend: expected trim"),
        ("score: 0.5\n", "score: expected --task detect"),
        ("level: 1\npixel_size: 2\n", "level and "),
    ],
)
def test_a_wrong_value_in_the_file_names_file_and_key(tmp_path, text, told):
    with pytest.raises(UsageError) as error:
        pipeline_line(tmp_path, "model: m:f\n" + text)
    assert told in str(error.value)
    assert str(tmp_path / "pipeline.yaml") in str(error.value)


def test_the_fraction_in_the_line_is_told_for_the_tile_of_the_file(tmp_path):
    with pytest.raises(UsageError, match=r"type --overlap 52\."):
        pipeline_line(tmp_path, "model: m:f\ntile: 256\n", "--overlap 0.2")
