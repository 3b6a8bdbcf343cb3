"""pipeline.yaml: the options of ``gigatile run`` in a file, with the model they belong to.

Its keys and kinds of values are checked here; the values become the text that would have been typed, and go
through the parsers of the command line.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, StrictStr, ValidationError

from gigatile.cli.option_table import BY_NAME
from gigatile.cli.values import Given, Where, nearest
from gigatile.errors import UsageError
from gigatile.models.cards.text import yaml_mapping

FILE_NAME = "pipeline.yaml"
_MODEL_SUFFIXES = {".onnx", ".pt", ".pt2", ".pth", ".ts", ".torchscript", ".yaml", ".yml", ".json"}
_PATH_KEYS = {"scheduler_file", "inputs"}


def _typed(value: object) -> str:
    """A number, or text, as it would be typed."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("a number or text")
    return repr(value) if isinstance(value, float) else str(value)


def _typed_list(value: object) -> str:
    """The same, or a list of them."""
    if not isinstance(value, list):
        return _typed(value)
    words = [_typed(item) for item in value]
    if any("," in word for word in words):
        raise ValueError("a list whose items have no comma in them")
    return ",".join(words)


def _color(value: object) -> tuple[int, int, int]:
    """``#rrggbb``, or three numbers from 0 to 255."""
    if isinstance(value, str) and len(value) == 7 and value.startswith("#"):
        try:
            red, green, blue = bytes.fromhex(value[1:])
        except ValueError as error:
            raise ValueError("colours such as '#d62728' or [214, 39, 40]") from error
        return red, green, blue
    if isinstance(value, list) and len(value) == 3 and all(type(part) is int for part in value):
        red, green, blue = value
        if all(0 <= part <= 255 for part in value):
            return red, green, blue
    raise ValueError("colours such as '#d62728' or [214, 39, 40]")


def _switch(value: object) -> str:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return "true" if value else "false"


Color = Annotated[tuple[int, int, int], BeforeValidator(_color)]
One = Annotated[StrictStr, BeforeValidator(_typed)]
Several = Annotated[StrictStr, BeforeValidator(_typed_list)]
Switch = Annotated[StrictStr, BeforeValidator(_switch)]


class PipelineFile(BaseModel):
    """The keys of pipeline.yaml; those that are options of ``run`` hold the text that would be typed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: StrictStr | None = None
    description: StrictStr | None = None
    class_colors: list[Color] | None = None
    class_names: Several | None = None

    model: StrictStr | None = None
    device: StrictStr | None = None
    task: StrictStr | None = None
    output: StrictStr | None = None
    boxes: StrictStr | None = None
    postprocess: StrictStr | None = None
    activation: StrictStr | None = None
    dtype: StrictStr | None = None
    channels: Several | None = None
    scale: One | None = None
    mean: Several | None = None
    std: Several | None = None
    normalize: StrictStr | None = None
    level: One | None = None
    pixel_size: One | None = None
    source_pixel_size: One | None = None
    roi: Several | None = None
    mask: StrictStr | None = None
    tile: Several | None = None
    overlap: One | None = None
    margin: One | None = None
    blend: StrictStr | None = None
    border: StrictStr | None = None
    border_of: StrictStr | None = None
    multiscale: Several | None = None
    tta: StrictStr | None = None
    score: One | None = None
    merge: StrictStr | None = None
    match: StrictStr | None = None
    match_threshold: One | None = None
    agnostic: Switch | None = None
    batch: One | None = None
    memory: One | None = None
    block: One | None = None
    executor: StrictStr | None = None
    scheduler_file: StrictStr | None = None
    workers: One | None = None
    inputs: StrictStr | None = None
    retry_failed: Switch | None = None
    overwrite: Switch | None = None
    on_bad_chunk: StrictStr | None = None
    durable: Switch | None = None
    progress: StrictStr | None = None


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A pipeline file that has been read."""

    path: Path
    name: str
    description: str
    class_colors: tuple[tuple[int, int, int], ...]
    given: dict[str, Given]
    """The options it sets, as text, by name."""


def shipped_folder() -> Path | None:
    """Where ready-made pipelines lie: inside an installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    if (package / "pipelines").is_dir():
        return package / "pipelines"
    checkout = package.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "pipelines").is_dir():
        return checkout / "pipelines"
    return None


def shipped_pipelines() -> dict[str, Path]:
    """The files of the ready-made pipelines by name, in order of name."""
    folder = shipped_folder()
    files = sorted(folder.glob(f"*/{FILE_NAME}")) if folder else []
    return {file.parent.name: file for file in files}


def find_pipeline(text: str) -> Path:
    """The file that ``--pipeline NAME|FILE`` means; a bare word is a name, anything else a path.

    Raises
    ------
    UsageError
        There is no such file or no pipeline of that name.
    """
    path = Path(text)
    if path.name == text and path.suffix.lower() not in {".yaml", ".yml", ".json"}:
        shipped = shipped_pipelines()
        if text not in shipped:
            known = f"There are: {', '.join(shipped)}." if shipped else "None is installed."
            fix = f"{nearest(text, list(shipped))} {known} Your own file is named by its path, ./{text}.yaml."
            raise UsageError("--pipeline", expected="a known name", found=repr(text), fix=fix.strip())
        return shipped[text]
    if path.is_dir():
        path /= FILE_NAME
    if not path.is_file():
        raise UsageError("--pipeline", expected="a pipeline file", found=f"no file {str(path)!r}")
    return path


def load_pipeline(path: Path) -> Pipeline:
    """Read a pipeline file.

    Raises
    ------
    UsageError
        It is not YAML, has an unknown key or a value of the wrong kind: names the file and the key.
    """
    if path.suffix.lower() == ".json":
        return _of_card(path)
    content = yaml_mapping(path)
    if "format_version" in content:
        return _of_card(path)
    try:
        model = PipelineFile.model_validate(content)
    except ValidationError as error:
        raise _first_problem(path, error, content) from error
    given = {
        key: Given(_relative(key, text, path.parent), Where(key, str(path)))
        for key, text in model.model_dump(exclude_none=True, include=set(BY_NAME)).items()
    }
    return Pipeline(
        path=path,
        name=model.name or path.parent.name,
        description=model.description or "",
        class_colors=tuple(model.class_colors or ()),
        given=given,
    )


def _of_card(path: Path) -> Pipeline:
    """Somebody else's card in the place of a pipeline file: it is the model, and says the rest itself."""
    given = {"model": Given(str(path), Where("model", str(path)))}
    return Pipeline(path=path, name=path.parent.name, description="", class_colors=(), given=given)


def _first_problem(path: Path, error: ValidationError, content: dict[str, Any]) -> UsageError:
    problem = error.errors()[0]
    key = str(problem["loc"][0])
    if problem["type"] == "extra_forbidden":
        hint = nearest(key.replace("-", "_"), sorted(PipelineFile.model_fields))
        fix = f"{hint} The keys are the long options of 'gigatile run' with underscores."
        return UsageError(f"{path}: {key}", expected="a known key", found=f"{key!r}", fix=fix.strip())
    reason = problem.get("ctx", {}).get("error")
    expected = str(reason) if reason else "text"
    fix = "Put the word in quotes." if isinstance(content.get(key), bool) and not reason else ""
    return UsageError(f"{path}: {key}", expected=expected, found=repr(content.get(key)), fix=fix)


def _relative(key: str, text: str, folder: Path) -> str:
    """Paths in the file are relative to the file; `~` and URLs are left alone."""
    if "://" in text:
        return text
    if key == "model":
        file, colon, name = text.rpartition(":")
        if colon and Path(file).suffix == ".py":
            return f"{folder / Path(file).expanduser()}:{name}"
        is_file = Path(text).suffix.lower() in _MODEL_SUFFIXES
    else:
        is_file = key in _PATH_KEYS or (key == "roi" and Path(text).suffix.lower() in {".geojson", ".json"})
        is_file = is_file or (key == "mask" and text not in {"none", "nodata", "tissue"})
    return str(folder / Path(text).expanduser()) if is_file else text
