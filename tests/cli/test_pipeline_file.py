"""pipeline.yaml: keys, kinds of values, paths, and where ready-made ones are found."""

from pathlib import Path

import pytest

from gigatile.cli.option_table import BY_NAME
from gigatile.cli.pipeline_file import PipelineFile, find_pipeline, load_pipeline, shipped_pipelines
from gigatile.errors import UsageError


def load(tmp_path, text):
    file = tmp_path / "pipeline.yaml"
    file.write_text(text, encoding="utf-8")
    return load_pipeline(file)


def refused(tmp_path, text):
    with pytest.raises(UsageError) as error:
        load(tmp_path, text)
    assert str(tmp_path / "pipeline.yaml") in str(error.value)
    return str(error.value)


def test_the_keys_are_the_long_options_and_what_describes_a_pipeline():
    options = set(BY_NAME) - {"pipeline"}
    assert set(PipelineFile.model_fields) == options | {"name", "description", "class_colors"}


def test_values_become_the_text_that_would_be_typed(tmp_path):
    pipeline = load(
        tmp_path,
        "name: n\ndescription: d\nmodel: m:f\nscale: 1/255\nmean: [0.5, -1, 1e-3]\ntile: [512, 256]\noverlap: 64\n"
        "channels: [0, red]\ndurable: false\nclass_names: [a, b c]\nclass_colors: ['#d62728', [1, 2, 3]]\nlevel: 0\n"
        "std: 0.1\nmemory: 2GiB\n",
    )
    assert {key: given.text for key, given in pipeline.given.items()} == {
        "model": "m:f", "scale": "1/255", "mean": "0.5,-1,1e-3", "tile": "512,256", "overlap": "64",
        "channels": "0,red", "durable": "false", "class_names": "a,b c", "level": "0", "std": "0.1", "memory": "2GiB",
    }  # fmt: skip
    assert (pipeline.name, pipeline.description) == ("n", "d")
    assert pipeline.class_colors == ((214, 39, 40), (1, 2, 3))


def test_an_unknown_key_is_an_error_that_names_the_nearest(tmp_path):
    message = refused(tmp_path, "model: m:f\noverlapp: 64\n")
    assert "overlapp: expected a known key, found 'overlapp'. Did you mean 'overlap'?" in message
    assert "Did you mean 'retry_failed'?" in refused(tmp_path, "retry-failed: true\n")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tile: true", "tile: expected a number or text, found True"),
        ("tile: {a: 1}", "tile: expected a number or text"),
        ("blend: [trim]", "blend: expected text, found ['trim']"),
        ("mask: no", "Put the word in quotes."),
        ("durable: 1", "durable: expected true or false, found 1"),
        ("class_names: ['a, b']", "class_names: expected a list whose items have no comma"),
        ("class_colors: [red]", "class_colors: expected colours such as '#d62728'"),
        ("class_colors: [[0, 0, 300]]", "class_colors: expected colours"),
        ("model: 3", "model: expected text, found 3"),
        ("tile: 1\ntile: 2", "the key 'tile' stands twice"),
        ("tile: [1", "line"),
        ("- a\n- b", "expected one 'key: value' a line, found list"),
        ("", "found NoneType"),
        ("1: 2", "1 is no key"),
        ("x: !!python/object/apply:os.system [ls]", "expected YAML"),
        ("a: &x [*x]", "pipeline.yaml"),
    ],
)
def test_a_broken_file_is_one_clear_error(tmp_path, text, told):
    assert told in refused(tmp_path, text)


def test_other_bytes_than_utf8_are_refused(tmp_path):
    (tmp_path / "pipeline.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(UsageError, match="UTF-8"):
        load_pipeline(tmp_path / "pipeline.yaml")


@pytest.mark.parametrize(
    ("key", "text", "relative"),
    [
        ("model", "net.onnx", True),
        ("model", "sub/net.pt2", True),
        ("model", "code.py:Net", True),
        ("model", "package.module:name", False),
        ("model", "s3://bucket/net.onnx", False),
        ("mask", "nodata", False),
        ("mask", "mask.tif", True),
        ("roi", "area.geojson", True),
        ("roi", "0,0,5,5", False),
        ("inputs", "list.csv", True),
    ],
)
def test_paths_are_relative_to_the_file_and_other_texts_are_not_touched(tmp_path, key, text, relative):
    value = load(tmp_path, f"{key}: {text}\n").given[key].text
    assert value == (f"{tmp_path}/{text}" if relative else text)


def test_an_absolute_path_stays(tmp_path):
    assert load(tmp_path, "model: /models/net.onnx\n").given["model"].text == "/models/net.onnx"


def test_a_pipeline_is_found_by_file_by_folder_and_by_name(tmp_path):
    (tmp_path / "pipeline.yaml").write_text("name: x\n")
    assert find_pipeline(str(tmp_path / "pipeline.yaml")) == tmp_path / "pipeline.yaml"
    assert find_pipeline(str(tmp_path)) == tmp_path / "pipeline.yaml"
    shipped = shipped_pipelines()
    assert shipped, "this checkout has pipelines; none was found"
    for name, file in shipped.items():
        assert find_pipeline(name) == file


def test_every_shipped_pipeline_loads_says_what_it_does_and_has_its_model_or_asks_for_one():
    shipped = shipped_pipelines()
    assert shipped
    for name, file in shipped.items():
        pipeline = load_pipeline(file)
        assert pipeline.name == name
        assert pipeline.description
        if "model" not in pipeline.given:
            assert "--model" in pipeline.description
            continue
        model = pipeline.given["model"].text
        assert ":" in model or Path(model).is_file()


def test_an_unknown_name_is_told_the_known_ones(tmp_path):
    first = next(iter(shipped_pipelines()))
    with pytest.raises(UsageError, match=f"There are: .*{first}"):
        find_pipeline("nucleii")
    with pytest.raises(UsageError, match="found no file"):
        find_pipeline(str(tmp_path / "none.yaml"))


def test_the_example_of_the_documentation_is_a_pipeline_file(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "pipeline-files.md").read_text(encoding="utf-8")
    examples = text.split("```yaml\n")[1:]
    assert examples
    for example in examples:
        load(tmp_path, example.split("```")[0])
