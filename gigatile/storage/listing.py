"""What lies below a URL: wildcards, Zarr hierarchies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from gigatile.errors import UsageError
from gigatile.storage.url import WEB_SCHEMES, BucketUrl, bucket_url, redacted, scheme_of

_ZARR = ("zarr.json", ".zgroup", ".zarray", ".zattrs")


def glob(url: str) -> list[str]:
    """URLs of the objects, and of the prefixes (Zarr hierarchies are such), that a pattern matches; sorted.

    Parameters
    ----------
    url : str
        ``s3://bucket/slides/*.svs``: ``*``, ``?`` and ``[a-z]`` within one part between ``/``. What comes
        before the first wildcard is not listed; without any, the URL is given back as it is.

    Raises
    ------
    UsageError
        A web server cannot be listed; the bucket has a wildcard; ``**``.
    StorageError
        The store does not answer, or refuses.
    """
    if scheme_of(url) in WEB_SCHEMES:
        raise UsageError(
            redacted(url),
            expected="a URL of one file",
            found="a pattern",
            fix="Web servers have no listing: name each.",
        )
    place = bucket_url(url)
    if _is_pattern(place.bucket) or "**" in place.key:
        fix = "Use * within the parts of the key."
        raise UsageError(str(place), expected="a bucket and a pattern of keys", found=str(place), fix=fix)
    parts = place.key.split("/")
    first = next((index for index, part in enumerate(parts) if _is_pattern(part)), len(parts))
    found = ["/".join(parts[:first])]
    for index, part in enumerate(parts[first:], first):
        last = index == len(parts) - 1
        found = [key for prefix in found for key in _matches(place, prefix, part, last)]
    return sorted(str(BucketUrl(place.scheme, place.bucket, key)) for key in found)


def is_prefix(url: str) -> bool:
    """Whether a URL names a Zarr hierarchy, and not a file: whether a metadata document lies right below it.

    Raises
    ------
    UsageError
        The URL makes no sense.
    StorageError
        The store does not answer, or refuses.
    """
    from gigatile.storage.client import connect_below, obstore, patiently

    client = connect_below(url)

    def there(name: str) -> bool:
        try:
            patiently(redacted(url), url, lambda: obstore().head(client, name))
        except FileNotFoundError:
            return False
        return True

    return any(there(name) for name in _ZARR)


def zarr_store(url: str) -> Any:
    """A read-only store for `zarr.open`, with the settings and the patience of everything here.

    Its pickle is the URL: whoever opens it uses the credentials of its own environment. Its name shows no secrets.

    Parameters
    ----------
    url : str
        Where the hierarchy lies: a prefix of a bucket, or a directory of a web server.

    Returns
    -------
    zarr.storage.ObjectStore
    """
    import zarr.storage  # heavy, and only for images in Zarr

    from gigatile.storage.client import connect_below

    class UrlStore(zarr.storage.ObjectStore):  # type: ignore[misc]
        """A store that knows its URL."""

        def __reduce__(self) -> tuple[Any, ...]:
            return zarr_store, (url,)

        def __str__(self) -> str:
            return redacted(url)

    return UrlStore(connect_below(url), read_only=True)


def _matches(place: BucketUrl, prefix: str, pattern: str, last: bool) -> Iterator[str]:
    """Keys right below a prefix whose last part matches; only prefixes, where more parts follow."""
    from gigatile.storage.client import connect, obstore, patiently

    client, where = connect(place.root), str(BucketUrl(place.scheme, place.bucket, prefix))
    found = patiently(where, place.root, lambda: obstore().list_with_delimiter(client, prefix or None))
    keys = {key.rstrip("/") for key in found["common_prefixes"]}
    if last:
        keys |= {entry["path"] for entry in found["objects"]}
    for key in keys:
        if fnmatchcase(key.rpartition("/")[2], pattern):
            yield key


def _is_pattern(part: str) -> bool:
    return re.search(r"[*?[]", part) is not None
