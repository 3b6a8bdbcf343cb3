"""Every option of ``run`` and ``plan``, once: name, group, what is typed, how it is read.

Pipeline files have the same keys, so this table is also their list of keys.
"""

from __future__ import annotations

from dataclasses import dataclass

from gigatile.cli import values as v

GROUPS = {
    "what": "what to run and what to write",
    "input": "how pixels become what the model sees",
    "where": "which part of the image",
    "tiling": "how the image is cut and put together",
    "objects": "detections and instances",
    "cost": "what the run may use",
    "life": "how the run goes",
}


@dataclass(frozen=True, slots=True)
class Option:
    """One option; all of them travel as text until `parse`."""

    group: str
    name: str
    """Long name with underscores: the key in a pipeline file."""
    metavar: str
    """What is typed after it; empty for a switch."""
    help: str
    parse: v.Parse


_SWITCH = v.one_of("true", "false")
_PIXELS_OR_AUTO = v.or_auto(v.whole(least=0, example=64))

OPTIONS = (
    Option("what", "pipeline", "NAME|FILE", "a ready-made pipeline, or a pipeline.yaml", v.as_text),
    Option("what", "model", "MODEL", "FILE.onnx, a card beside it, package.module:name or file.py:name", v.as_text),
    Option("what", "device", "auto|cpu|cuda[:N]", "where the model runs (default: auto)", v.device),
    Option(
        "what",
        "task",
        "segment|detect|instances",
        "what the model finds (default: segment)",
        v.one_of("segment", "detect", "instances"),
    ),
    Option(
        "what",
        "output",
        "classes|probabilities|raw",
        "what is written (default: classes)",
        v.one_of("classes", "probabilities", "raw"),
    ),
    Option(
        "what",
        "activation",
        "none|sigmoid|softmax",
        "applied to each tile before blending (default: none)",
        v.one_of("none", "sigmoid", "softmax"),
    ),
    Option(
        "what",
        "dtype",
        "float32|float16|uint8",
        "of the written probabilities (default: float32)",
        v.one_of("float32", "float16", "uint8"),
    ),
    Option("input", "channels", "0,1,2|NAME,...", "channels, in this order (default: all but alpha)", v.channels),
    Option("input", "scale", "S", "pixels are multiplied by it (default: 1/255 for uint8, else 1)", v.nonzero),
    Option("input", "mean", "A,B,C", "subtracted after scaling", v.many(v.number)),
    Option("input", "std", "A,B,C", "divided by after that", v.many(v.positive)),
    Option(
        "input",
        "normalize",
        "none|percentile:LO,HI|minmax|zscore|macenko|reinhard",
        "by statistics of the whole image (default: none)",
        v.normalize,
    ),
    Option("where", "level", "N", "pyramid level to work on (default: 0)", v.whole(least=0, example=0)),
    Option("where", "pixel_size", "P", "work at this pixel size instead", v.positive),
    Option("where", "source_pixel_size", "P", "micrometres a pixel of the slide, whatever it says", v.positive),
    Option("where", "roi", "XMIN,YMIN,XMAX,YMAX|FILE.geojson", "only inside this area", v.roi),
    Option("where", "mask", "none|nodata|tissue|FILE", "which pixels count (default: nodata)", v.as_text),
    Option("tiling", "tile", "N|NY,NX", "what the model sees at once (default: what it fixes, or 512)", v.tile),
    Option(
        "tiling",
        "overlap",
        "N|auto",
        "pixels two neighbouring tiles share, even (default: auto)",
        _PIXELS_OR_AUTO,
    ),
    Option(
        "tiling",
        "margin",
        "N|auto",
        "pixels along a tile's edge that are never used (default: auto)",
        _PIXELS_OR_AUTO,
    ),
    Option(
        "tiling",
        "blend",
        "trim|mean|linear|hann|gaussian",
        "how overlaps are joined (default: hann)",
        v.one_of("trim", "mean", "linear", "hann", "gaussian"),
    ),
    Option(
        "tiling",
        "border",
        "reflect|symmetric|edge|constant:V",
        "beyond the image (default: reflect)",
        v.border,
    ),
    Option(
        "tiling",
        "border_of",
        "image|footprint",
        "what it continues: the image, or its valid pixels as well (default: image)",
        v.one_of("image", "footprint"),
    ),
    Option("tiling", "multiscale", "1,0.5", "average over these scales (default: 1)", v.many(v.positive)),
    Option(
        "tiling",
        "tta",
        "none|flips|d4",
        "average over flips and turns (default: none)",
        v.one_of("none", "flips", "d4"),
    ),
    Option("objects", "boxes", "FORMAT", "a detector's numbers, such as yolov8 (default: recognised)", v.boxes),
    Option("objects", "score", "T", "least score of a box (default: 0.25; 0 for finished boxes)", v.number),
    Option(
        "objects",
        "merge",
        "nms|nmm|wbf|ownership",
        "how boxes of several tiles become one (default: nms)",
        v.one_of("nms", "nmm", "wbf", "ownership"),
    ),
    Option(
        "objects",
        "match",
        "iou|ios",
        "overlap by union, or by the smaller of two (default: iou for boxes, ios for instances)",
        v.one_of("iou", "ios"),
    ),
    Option("objects", "match_threshold", "T", "above it two are one (default: 0.5; turned boxes 0.1)", v.number),
    Option("objects", "agnostic", "", "boxes of different classes may be one, too", _SWITCH),
    Option(
        "objects",
        "postprocess",
        "METHOD[:name=value,...]",
        "instances of maps: components, watershed, stardist or flows (default: the model gives labels)",
        v.as_text,
    ),
    Option("objects", "class_names", "a,b,c", "names of the classes, from class 0 on", v.many(v.as_text)),
    Option(
        "cost",
        "batch",
        "N|auto",
        "tiles per call of the model (default: auto, 1 on the CPU)",
        v.or_auto(v.whole(least=1, example=4)),
    ),
    Option("cost", "memory", "2GiB", "peak resident memory (default: half of what there is)", v.size),
    Option(
        "cost",
        "block",
        "N|auto",
        "side in pixels of what is written and resumed at once (default: auto)",
        v.or_auto(v.whole(least=1, example=4096)),
    ),
    Option(
        "cost",
        "executor",
        "threads|processes|tcp://..|tls://..",
        "who does the work (default: threads)",
        v.executor,
    ),
    Option("cost", "scheduler_file", "F", "file that names a Dask scheduler", v.as_text),
    Option(
        "cost",
        "workers",
        "N",
        "how many at the same time (default: auto)",
        v.or_auto(v.whole(least=1, example=2)),
    ),
    Option("life", "inputs", "LIST.csv", "images in a list: columns image, and name, level, channels", v.as_text),
    Option("life", "retry_failed", "", "do failed blocks again", _SWITCH),
    Option("life", "overwrite", "", "delete the result in DIR and start again", _SWITCH),
    Option(
        "life",
        "on_bad_chunk",
        "fail|fill",
        "what an unreadable part of the image does (default: fail)",
        v.one_of("fail", "fill"),
    ),
    Option("life", "durable", "", "wait until the disk has each block (default: durable)", _SWITCH),
    Option(
        "life",
        "progress",
        "auto|rich|json|none",
        "how progress is shown (default: auto)",
        v.one_of("auto", "rich", "json", "none"),
    ),
)

BY_NAME = {option.name: option for option in OPTIONS}
EXCLUSIVE = (("level", "pixel_size"), ("retry_failed", "overwrite"), ("executor", "scheduler_file"))
"""Options of which only one may be given; one on the command line displaces the other of a pipeline file."""
OF_TASKS = {
    "output": ("segment",),
    "dtype": ("segment",),
    "boxes": ("detect",),
    "score": ("detect",),
    "merge": ("detect",),
    "agnostic": ("detect",),
    "match": ("detect", "instances"),
    "match_threshold": ("detect", "instances"),
    "postprocess": ("instances",),
}
"""Options that mean something for some tasks only."""
