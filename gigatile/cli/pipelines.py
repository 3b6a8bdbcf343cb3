"""``gigatile pipelines``: the ready-made pipelines."""

from __future__ import annotations

from collections.abc import Sequence

from gigatile.cli.parser import Parser, add_debug, emit, say


def main(argv: Sequence[str]) -> int:
    """List the pipelines that came with gigatile."""
    parser = Parser("gigatile pipelines", description="The pipelines for 'gigatile run --pipeline NAME'.")
    add_debug(parser)
    parser.parse(argv)
    from gigatile.cli.pipeline_file import load_pipeline, shipped_pipelines

    found = {name: load_pipeline(file) for name, file in shipped_pipelines().items()}
    if not found:
        say("no pipelines came with this installation; --pipeline FILE takes your own.")
        return 0
    width = max(map(len, found))
    emit("\n".join(f"{name:<{width}}  {' '.join(p.description.split())}" for name, p in found.items()))
    return 0
