"""``gigatile export``: the result of a run, or of each image of a cohort, as a file for other programs."""

from __future__ import annotations

from collections.abc import Sequence

from gigatile.cli.inputs import check_run_directory
from gigatile.cli.parser import Parser, add_debug, emit, say
from gigatile.cli.values import Where, as_text, many, one_of, positive
from gigatile.errors import UsageError

PIXELS = {
    "cog": "cloud-optimised GeoTIFF: GDAL, QGIS, older GIS",
    "ome-tiff": "QuPath, Bio-Formats, ImageJ; name it .ome.tif",
    "ome-zarr-0.4": "a folder of Zarr v2: QuPath, older viewers",
}
OBJECTS = {
    "geojson": "QuPath by drag and drop, GIS; one feature a line if named .geojsonl",
    "geoparquet": "all columns, exactly: geopandas, GIS",
    "flatgeobuf": "with a spatial index: GIS, browsers",
    "csv": "with WKT: spreadsheets, R",
    "coco": "JSON for training and scoring",
}
SOMETHING_FAILED = 3


def main(argv: Sequence[str]) -> int:
    """Export one run to a file, or a cohort to a folder of files; 3 when some images could not be exported."""
    parser = _parser()
    arguments = parser.parse(argv)
    for name, given in (("--to", arguments.to), ("-o", arguments.output)):
        if given is None:
            raise UsageError(f"{parser.prog}: no {name} given", fix=f"See '{parser.prog} --help'.")
    kind = one_of(*PIXELS, *OBJECTS)(arguments.to, Where("to"))
    if arguments.dtype is not None:
        one_of("uint8")(arguments.dtype, Where("dtype"))
    classes = () if arguments.classes is None else many(as_text)(arguments.classes, Where("classes"))
    tolerance = None if arguments.simplify is None else positive(arguments.simplify, Where("simplify"))
    directory_kind = check_run_directory(arguments.directory)
    from gigatile.exports.export import export_cohort, export_run
    from gigatile.exports.target import target_path

    path = target_path(arguments.output)
    if directory_kind == "run":
        export_run(arguments.directory, kind, path, arguments.dtype, classes, tolerance=tolerance)
        emit(str(path))
        return 0
    failed = 0
    for image in export_cohort(arguments.directory, kind, path, arguments.dtype, classes, tolerance=tolerance):
        if image.problem:
            failed += 1
            say(f"{image.name}: not exported: {image.problem}")
        else:
            emit(str(image.path))
    return SOMETHING_FAILED if failed else 0


def _parser() -> Parser:
    parser = Parser(
        "gigatile export",
        usage="gigatile export DIR --to FORMAT -o FILE",
        description="Give the result in DIR to other programs. It must be complete. FILE appears whole at the end;\n"
        "an export that was interrupted is begun anew. Of a cohort each image becomes a file in the folder FILE.",
    )
    parser.add_argument("directory", metavar="DIR", help="what was given to 'gigatile run -o'")
    pixels, objects = ("; ".join(f"{name} ({about})" for name, about in of.items()) for of in (PIXELS, OBJECTS))
    parser.add_argument("--to", metavar="FORMAT", help=f"pixels: {pixels}. Objects: {objects}")
    parser.add_argument("-o", dest="output", metavar="FILE", help="the file to write, replacing an earlier export")
    parser.add_argument("--dtype", metavar="uint8", help="probabilities as bytes: round(254 * p), 255 where invalid")
    parser.add_argument("--classes", metavar="A,B", help="only objects of these: names or numbers (default: all)")
    parser.add_argument(
        "--simplify",
        metavar="PX",
        help="polygons of class maps without details of less than PX x PX pixels; neighbours keep one edge",
    )
    add_debug(parser)
    return parser
