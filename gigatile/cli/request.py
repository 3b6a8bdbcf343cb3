"""From options to a plan: the path that ``run`` and ``plan`` share."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gigatile.cli.inputs import check_image, check_model
from gigatile.cli.options import RunOptions
from gigatile.errors import UsageError

if TYPE_CHECKING:
    from gigatile.images.image import Image
    from gigatile.models.model import LoadedModel
    from gigatile.plans.finding import Finding
    from gigatile.plans.plan import Plan


def make_plan(options: RunOptions, model: LoadedModel | None = None) -> Plan:
    """Open the image, load the model and plan; the heavy imports happen here, after all checks of words.

    Parameters
    ----------
    options : RunOptions
    model : LoadedModel, optional
        What `read_model` gave for the same options: it is loaded once for many images.

    Raises
    ------
    UsageError
        The image, the model and the options do not fit each other, or the budget is too small.
    """
    check_image(options.image)
    check_model(options.model)
    from gigatile.images.open import open as open_image
    from gigatile.models.card_fit import fitted_image
    from gigatile.plans.build import plan
    from gigatile.tiling.tiling import Tiling

    image = open_image(options.image)
    if options.source_pixel_size is not None:
        image = image.with_pixel_size(options.source_pixel_size)
    image = image.with_bad_chunks(options.on_bad_chunk)
    image = image.select(channels=options.channels, level=options.level)
    if options.pixel_size is not None:
        image = image.at(options.pixel_size)
    image = fitted_image(image, options.card)
    _check_lengths(options, image)
    model = model or read_model(options)
    tiling = Tiling(
        tile=options.tile,
        overlap=_or_auto(options.overlap),
        margin=_or_auto(options.margin),
        blend=options.blend,
        border=options.border,
        border_of=options.border_of,
        block=options.block,
    )
    made = plan(
        image,
        model,
        tiling,
        output=options.output,
        dtype=options.dtype,
        mask=options.mask,
        roi=options.roi,
        memory=options.memory,
        objects=_finding(options),
    )
    _check_classes(options, made)
    return made


def read_model(options: RunOptions) -> LoadedModel:
    """The model of a request.

    Raises
    ------
    ModelError
        It cannot be loaded.
    """
    check_model(options.model)
    from gigatile.models.load import load_model

    model = load_model(
        options.model,
        scale=options.scale,
        mean=options.mean,
        std=options.std,
        activation=options.activation,
        normalize=options.normalize,
        tta=options.tta,
        multiscale=options.multiscale,
        batch=options.batch,
        device=options.device,
        class_names=options.class_names,
        boxes=options.boxes,
        score=options.score,
    )
    colors = tuple("#{:02x}{:02x}{:02x}".format(*c) for c in options.class_colors)
    return replace(model, class_colors=colors, card=options.card)


def _finding(options: RunOptions) -> Finding | None:
    """What is done with objects."""
    asked = options.objects
    if asked is None:
        return None
    from gigatile.plans.finding import Detect, Instances

    match: Any = asked.match or ("iou" if options.task == "detect" else "ios")
    if options.task == "instances":
        return Instances(asked.postprocess, match, asked.threshold)
    merge: Any = asked.merge
    return Detect(merge, match, asked.threshold, "any" if asked.agnostic else "same")


def _or_auto(value: int | None) -> Any:
    return "auto" if value is None else value


def _check_lengths(options: RunOptions, image: Image) -> None:
    count = len(image.channels)
    for name, numbers in (("--mean", options.mean), ("--std", options.std)):
        if len(numbers) not in {0, 1, count}:
            raise UsageError(
                f"{name} for {options.image}",
                expected=f"1 or {count} numbers, as many as channels are read ({', '.join(image.channels)})",
                found=str(len(numbers)),
                fix="Give one number a channel, or choose the channels with --channels.",
            )


def _check_classes(options: RunOptions, made: Plan) -> None:
    """One channel makes two classes: it is above 0.5 or it is not. Objects have whatever classes they have."""
    if options.objects is not None:
        return
    channels_out = made.trial.channels_out
    count = 2 if options.output == "classes" and channels_out == 1 else channels_out
    for name, given in (("class_names", made.model.class_names), ("class_colors", made.model.class_colors)):
        if len(given) not in {0, count}:
            raise UsageError(
                f"{name} for {options.model}",
                expected=f"{count}, one for each {'class' if options.output == 'classes' else 'channel'}",
                found=str(len(given)),
                fix="The first is class 0.",
            )
