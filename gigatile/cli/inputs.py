"""What the words of a command line point at, checked before anything heavy is imported."""

from __future__ import annotations

from pathlib import Path

from gigatile.errors import ImageError, ModelError, RunRefused, UsageError

_ZARR_MARKERS = ("zarr.json", ".zgroup", ".zarray", ".zattrs")


def check_image(text: str) -> None:
    """Refuse what is no single local image.

    Raises
    ------
    UsageError
        A kind of input that is not available yet: object stores, directories, patterns, stacked files.
    ImageError
        There is nothing at that path.
    """
    one = "Give the path of one image file or Zarr."
    if "://" in text:
        raise UsageError(f"{text}: URLs and object stores are not available yet", fix=one)
    path = Path(text)
    if path.is_dir():
        if path.suffix != ".zarr" and not any((path / marker).exists() for marker in _ZARR_MARKERS):
            raise UsageError(f"{text}: directories of images are not available yet", fix=one)
    elif not path.exists():
        parts = text.split("+")
        if len(parts) > 1 and all(Path(part).exists() for part in parts):
            raise UsageError(f"{text}: stacking several files is not available yet", fix=one)
        if set(text) & set("*?["):
            raise UsageError(f"{text}: patterns that stand for several images are not available yet", fix=one)
        nearby = _nearby(path)
        raise ImageError(text, expected="an image file or Zarr", found="nothing at that path", fix=nearby)


def check_model(text: str) -> None:
    """Refuse a model file that is not there; ``package.module:name`` is looked up when it is loaded."""
    file, colon, _ = text.rpartition(":")
    path = Path(file) if colon and file.endswith(".py") else Path(text)
    is_file = path.suffix.lower() in {".onnx", ".pt", ".pt2", ".pth", ".ts", ".py"}
    if is_file and not path.exists():
        raise ModelError(text, expected="a model file", found="nothing at that path", fix=_nearby(path))


def check_run_directory(text: str) -> None:
    """Refuse a path that is not the directory of a run."""
    path = Path(text)
    if not path.exists():
        raise RunRefused(text, expected="the directory of a run", found="nothing at that path", fix=_nearby(path))
    if not (path / "run.json").is_file():
        found = "no run.json in it" if path.is_dir() else "a file"
        raise RunRefused(
            text, expected="the directory of a run", found=found, fix="Name the DIR of 'gigatile run -o DIR'."
        )


def _nearby(path: Path) -> str:
    if not path.parent.is_dir():
        return f"There is no directory {str(path.parent)!r}."
    from gigatile.cli.values import nearest

    return nearest(path.name, [entry.name for entry in path.parent.iterdir()])
