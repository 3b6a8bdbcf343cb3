"""The request of ``gigatile run`` and ``gigatile plan``: read, merged with a pipeline file, and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gigatile.cli.option_table import BY_NAME, EXCLUSIVE, GROUPS, OF_TASKS, OPTIONS
from gigatile.cli.parser import Parser, add_debug
from gigatile.cli.values import Given, Where, fraction_of, option_flag
from gigatile.errors import UsageError

if TYPE_CHECKING:
    from gigatile.cli.pipeline_file import Pipeline
    from gigatile.images.bad_units import OnBadChunk
    from gigatile.models.augment import Augmentation
    from gigatile.models.card import ModelCard
    from gigatile.models.values import Activation
    from gigatile.tiling.axis import Blend
    from gigatile.tiling.tiling import BorderOf

Task = Literal["segment", "detect", "instances"]
Existing = Literal["resume", "retry-failed", "overwrite"]
USUAL_TILE = 512


@dataclass(frozen=True, slots=True)
class ObjectOptions:
    """How objects become one each; None stands for the library's default."""

    merge: str
    match: str | None
    threshold: float | None
    agnostic: bool
    postprocess: str | None


@dataclass(frozen=True, slots=True)
class RunOptions:
    """A request whose every value has been read; None stands for `auto`, or the library's default."""

    image: str
    """The only image; of several, the one whose turn it is, and nothing before that."""
    images: tuple[str, ...]
    """As typed: paths, folders, patterns, URLs."""
    inputs: str | None
    """A list of images instead."""
    output_dir: str | None
    model: str
    device: str
    task: Task
    objects: ObjectOptions | None
    """What is done with objects, where they are looked for."""
    boxes: str
    score: float | None
    output: str | None
    activation: Activation
    normalize: str
    tta: Augmentation
    multiscale: tuple[float, ...]
    dtype: str | None
    channels: tuple[int | str, ...] | None
    scale: float | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    level: int
    source_pixel_size: float | None
    pixel_size: float | None
    roi: str | None
    mask: str
    tile: tuple[int, int] | None
    overlap: int | None
    margin: int | None
    blend: Blend | None
    border: str
    border_of: BorderOf
    class_names: tuple[str, ...]
    class_colors: tuple[tuple[int, int, int], ...]
    batch: int | None
    memory: int | None
    block: int | None
    executor: str | Path
    """A path is that of a scheduler file."""
    workers: int | None
    existing: Existing
    """What to do with a result that is there: `resume`, `retry-failed` or `overwrite`."""
    durable: bool
    on_bad_chunk: OnBadChunk
    progress: str
    json: bool
    card: ModelCard | None = None
    """What the model's card says beside these options; scaling, activation, output, tile and names are in them."""


def run_parser(command: str, description: str) -> Parser:
    """The parser of ``run`` and ``plan``; all values stay text."""
    usage = f"gigatile {command} {'IMAGE... -o DIR' if command == 'run' else 'IMAGE'} [options]"
    parser = Parser(f"gigatile {command}", usage=usage, description=description)
    kinds = "a TIFF, SVS, OME-TIFF, GeoTIFF or Zarr; a path or a URL"
    several = "; or several, a folder of them, or a pattern: each gets DIR/NAME/" if command == "run" else ""
    parser.add_argument("image", nargs="*", metavar="IMAGE", help=kinds + several)
    why = "where the result goes; made if missing" if command == "run" else "accepted; plan writes nothing"
    parser.add_argument("-o", dest="output_dir", metavar="DIR", help=why)
    for group, title in GROUPS.items():
        section = parser.add_argument_group(f"{group}: {title}")
        for option in (option for option in OPTIONS if option.group == group):
            text = (option.help).replace("%", "%%")
            if option.metavar:
                section.add_argument(option_flag(option.name), metavar=option.metavar, help=text)
                continue
            section.add_argument(option_flag(option.name), action="store_const", const="true", help=text)
            if option.name == "durable":
                section.add_argument(
                    "--no-durable", dest="durable", action="store_const", const="false", help="do not wait"
                )
    if command == "plan":
        parser.add_argument("--json", action="store_true", help="print JSON")
    add_debug(parser)
    return parser


def read_options(parser: Parser, argv: Sequence[str]) -> RunOptions:
    """Read a command line of ``run`` or ``plan`` and the pipeline file it may name.

    Raises
    ------
    UsageError
        An option is unknown, has a value that it does not take, contradicts another or is not available yet.
    """
    namespace = vars(parser.parse(argv))
    words = namespace["image"]
    given = {name: Given(namespace[name], Where(name)) for name in BY_NAME if namespace[name] is not None}
    colors: tuple[tuple[int, int, int], ...] = ()
    pipeline: Pipeline | None = None
    if "pipeline" in given:
        # What is wrong whatever the file says is told before pydantic is imported.
        read_values({name: given[name] for name in given.keys() - {"overlap", "margin"}})
        from gigatile.cli.pipeline_file import find_pipeline, load_pipeline

        pipeline = load_pipeline(find_pipeline(given.pop("pipeline").text))
        colors = pipeline.class_colors
        displaced = {name for pair in EXCLUSIVE if given.keys() & set(pair) for name in pair}
        displaced |= {"inputs"} if words else set()
        if "task" in given:
            # Another task than the file's: what it says of its own goes with it.
            displaced |= {name for name, tasks in OF_TASKS.items() if given["task"].text not in tasks}
        from_file = {name: given_ for name, given_ in pipeline.given.items() if name not in displaced}
        given = {**from_file, **given}
    _check_images(words, given, parser.prog)
    values = read_values(given)
    names = values.get("class_names", ())
    if names and colors and len(names) != len(colors):
        raise UsageError(
            f"{given['class_names'].where} and class_colors",
            expected="one colour for each class",
            found=f"{len(names)} names and {len(colors)} colours",
        )
    if values.get("model") is None:
        raise _no_model(parser.prog, pipeline)
    from gigatile.cli.card_options import with_card

    carded = with_card(values, colors)
    return replace(_options(namespace, carded.values, carded.colors), card=carded.card)


def _no_model(prog: str, pipeline: Pipeline | None) -> UsageError:
    """The error for a request without a model; some pipelines are for models that their users bring."""
    if pipeline is not None:
        return UsageError(
            f"{prog} --pipeline {pipeline.name}",
            expected="a model of yours, for which this pipeline is",
            found=f"no --model, and none in {pipeline.path}",
            fix=f"Type --model FILE.onnx as well. {pipeline.description}".strip(),
        )
    return UsageError(
        prog,
        expected="a model",
        found="neither --model nor --pipeline",
        fix="Type --model FILE.onnx or --model package.module:name, or a --pipeline that 'gigatile pipelines' lists.",
    )


def read_values(given: Mapping[str, Given]) -> dict[str, Any]:
    """Text to values, with the checks that need several of them."""
    for pair in EXCLUSIVE:
        both = [given[name].where for name in pair if name in given and given[name].text != "false"]
        if len(both) > 1:
            raise UsageError(f"{both[0]} and {both[1]} exclude each other", fix="Leave one of them out.")
    values: dict[str, Any] = {}
    for option in OPTIONS:
        if option.name not in given:
            continue
        text, where = given[option.name].text, given[option.name].where
        if option.name in {"overlap", "margin"}:
            _refuse_fraction(text, where, values)
        values[option.name] = option.parse(text, where)
    _check_tiling(given, values)
    _check_task(given, values)
    return values


def _refuse_fraction(text: str, where: Where, values: Mapping[str, Any]) -> None:
    fraction = fraction_of(text)
    if fraction is None:
        return
    tile = values.get("tile") or (USUAL_TILE, USUAL_TILE)
    shown = str(tile[0]) if tile[0] == tile[1] else f"{tile[0]},{tile[1]}"
    meant = f"{100 * fraction:.3g} % of a tile of {shown}"
    if where.name == "overlap":
        pixels = 2 * max(round(fraction * min(tile) / 2), 1)
    else:
        most = (values.get("overlap") or min(tile) // 4) // 2
        pixels = min(round(fraction * min(tile)), most)
        meant += ", cut to half of the overlap," if pixels == most else ""
    found = f"{text!r}, a fraction"
    fix = f"For {meant} type {where.typed(pixels)}."
    raise UsageError(str(where), expected="a number of pixels", found=found, fix=fix)


def _check_tiling(given: Mapping[str, Given], values: Mapping[str, Any]) -> None:
    tile, overlap, margin = values.get("tile"), values.get("overlap"), values.get("margin")
    if overlap is None:
        return
    where = given["overlap"].where
    if tile is not None and overlap >= min(tile):
        expected = f"less than the tile, {min(tile)} pixels"
        fix = f"A quarter of the tile is usual: type {where.typed(min(tile) // 8 * 2)}."
        raise UsageError(str(where), expected=expected, found=str(overlap), fix=fix)
    if overlap % 2:
        fix = f"Type {where.typed(overlap - 1)} or {where.typed(overlap + 1)}."
        raise UsageError(str(where), expected="an even number of pixels", found=str(overlap), fix=fix)
    if margin is not None and margin > overlap // 2:
        where = given["margin"].where
        expected = f"at most half of the overlap, {overlap // 2}"
        fix = f"Type {where.typed(overlap // 2)} or less, or an overlap of {2 * margin} or more."
        raise UsageError(str(where), expected=expected, found=str(margin), fix=fix)


def _check_task(given: Mapping[str, Given], values: Mapping[str, Any]) -> None:
    """Refuse options of another task."""
    task = values.get("task", "segment")
    for name, tasks in OF_TASKS.items():
        if name in given and task not in tasks and given[name].text != "false":
            raise UsageError(
                str(given[name].where),
                expected=f"--task {' or '.join(tasks)}",
                found=f"--task {task}",
                fix="Type the task, or leave the option out.",
            )


def one_image(words: Sequence[str], prog: str) -> str:
    """The image of a command that takes one."""
    if not words:
        raise UsageError(f"{prog}: no image given", fix="Type the path of a TIFF or Zarr after the command.")
    if len(words) > 1:
        raise UsageError(
            f"{prog}: {len(words)} images, {words[0]!r}, {words[1]!r}{' ...' if words[2:] else ''}, where it takes one",
            fix="Give one image; 'gigatile run' takes several.",
        )
    return words[0]


def _check_images(words: Sequence[str], given: Mapping[str, Given], prog: str) -> None:
    """Images, or a list of them; what they are is looked at later."""
    listing = given.get("inputs")
    if not prog.endswith(" run"):
        if listing is not None:
            raise UsageError(
                f"{prog}: {listing.where}, where it takes one image",
                fix="Name one image of the list; 'gigatile run' takes all of them.",
            )
        one_image(words, prog)
    elif listing is None and not words:
        raise UsageError(
            f"{prog}: no image given",
            fix="Type paths of TIFFs or Zarrs, folders or patterns after the command, or --inputs LIST.csv.",
        )
    elif listing is not None and words:
        raise UsageError(
            f"{listing.where} and {words[0]!r} exclude each other",
            fix="Put the image into the list, or leave the list out.",
        )


def _objects(values: Mapping[str, Any], task: Task) -> ObjectOptions | None:
    if task == "segment":
        return None
    return ObjectOptions(
        merge=values.get("merge", "nms"),
        match=values.get("match"),
        threshold=values.get("match_threshold"),
        agnostic=values.get("agnostic") == "true",
        postprocess=values.get("postprocess"),
    )


def _options(
    namespace: Mapping[str, Any],
    values: Mapping[str, Any],
    colors: tuple[tuple[int, int, int], ...],
) -> RunOptions:
    value = values.get
    scheduler = value("scheduler_file")
    task: Task = value("task", "segment")
    existing: Existing = "overwrite" if value("overwrite") == "true" else "resume"
    return RunOptions(
        image=namespace["image"][0] if len(namespace["image"]) == 1 else "",
        images=tuple(namespace["image"]),
        inputs=value("inputs"),
        output_dir=namespace["output_dir"],
        model=values["model"],
        device=value("device", "auto"),
        task=task,
        objects=_objects(values, task),
        boxes=value("boxes", "auto"),
        score=value("score"),
        output=value("output", "classes" if task == "segment" else None),
        activation=value("activation", "none"),
        normalize=value("normalize", "none"),
        tta=value("tta", "none"),
        multiscale=value("multiscale", (1.0,)),
        dtype=value("dtype"),
        channels=value("channels"),
        scale=value("scale"),
        mean=value("mean", ()),
        std=value("std", ()),
        level=value("level", 0),
        source_pixel_size=value("source_pixel_size"),
        pixel_size=value("pixel_size"),
        roi=value("roi"),
        mask=value("mask", "nodata"),
        tile=value("tile"),
        overlap=value("overlap"),
        margin=value("margin"),
        blend=value("blend"),
        border=value("border", "reflect"),
        border_of=value("border_of", "image"),
        class_names=value("class_names", ()),
        class_colors=colors,
        batch=value("batch"),
        memory=value("memory"),
        block=value("block"),
        executor=value("executor", "threads") if scheduler is None else Path(scheduler),
        workers=value("workers"),
        existing="retry-failed" if value("retry_failed") == "true" else existing,
        durable=value("durable", "true") == "true",
        on_bad_chunk=value("on_bad_chunk", "fail"),
        progress=value("progress", "auto"),
        json=bool(namespace.get("json")),
    )
