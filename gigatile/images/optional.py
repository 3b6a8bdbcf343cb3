"""Packages that only some formats need: imported when such a file is opened, or one clear error."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from gigatile.errors import ImageError


class NeedsReader(ImageError):
    """The file is sound, but needs another reader than the one that was asked; an optional one may take it."""


def import_for(module: str, extra: str, where: str) -> Any:
    """Import an optional package for the file `where`.

    Parameters
    ----------
    module : str
        Name by which it is imported.
    extra : str
        The extra of gigatile that installs it.

    Raises
    ------
    ImageError
        It is not installed, or its library cannot be loaded: names the command that installs it.
    """
    try:
        return import_module(module)
    except (ImportError, OSError) as error:
        raise ImageError(
            where,
            expected=f"the optional package {module}, which reads this format",
            found=f"{type(error).__name__}: {error}",
            fix=f"Type: pip install 'gigatile[{extra}]'",
        ) from error
