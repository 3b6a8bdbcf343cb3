"""From a path or URL to its store."""

from __future__ import annotations

from pathlib import Path

from gigatile.storage.local import LocalStore
from gigatile.storage.store import Store


def open_store(place: str | Path, *, durable: bool = True) -> Store:
    """The store at a path, a ``file://`` URL, or a URL of an object store.

    Parameters
    ----------
    place : str or Path
        A directory, which need not be there yet, or ``s3://bucket/prefix``, ``gs://...``, ``az://...``.
    durable : bool
        Whether what is finished is on disk, and not only in the memory of the operating system.

    Raises
    ------
    UsageError
        The URL has a scheme that nothing is known of, or its parts make no sense.
    """
    text = str(place)
    if "://" in text and not text.startswith("file://"):
        from gigatile.storage.bucket import open_bucket  # obstore is loaded only by those who use it

        return open_bucket(text)
    return LocalStore(Path(text.removeprefix("file://")).absolute(), durable)
