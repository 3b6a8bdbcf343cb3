"""URLs of objects: their parts, and what of them may be shown.

::

    s3://bucket/slides/a.svs          scheme, bucket, key; nothing is percent-decoded: `#` and `%` are part of a key
    https://host/a.tif?X-Signature=   read only; what is secret travels in the URL and is shown nowhere
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from gigatile.errors import UsageError

BUCKET_SCHEMES = {
    **dict.fromkeys(("s3", "s3a"), "AWS"),
    **dict.fromkeys(("gs", "gcs"), "GOOGLE"),
    **dict.fromkeys(("az", "azure", "adl", "abfs", "abfss"), "AZURE"),
}
"""Scheme -> first word of the environment variables that its store is configured by."""
WEB_SCHEMES = frozenset({"http", "https"})


@dataclass(frozen=True, slots=True)
class BucketUrl:
    """An object, or a prefix, in a bucket."""

    scheme: str
    bucket: str
    """``container@account.host`` for the long spelling of Azure."""
    key: str
    """Without a ``/`` at either end; empty for the whole bucket."""

    @property
    def root(self) -> str:
        """The URL of the bucket."""
        return f"{self.scheme}://{self.bucket}"

    def __str__(self) -> str:
        return f"{self.root}/{self.key}" if self.key else self.root


def scheme_of(place: str) -> str:
    """The scheme of a URL in lower case; empty for a path."""
    scheme, separator, _ = place.partition("://")
    return scheme.lower() if separator else ""


def bucket_url(url: str) -> BucketUrl:
    """The parts of a URL of an object store.

    Raises
    ------
    UsageError
        The scheme is not that of an object store, there is no bucket, or there are secrets in it.
    """
    scheme = scheme_of(url)
    if scheme not in BUCKET_SCHEMES:
        raise UsageError(
            redacted(url),
            expected=f"a URL of {', '.join(f'{name}://' for name in BUCKET_SCHEMES)}",
            found=f"{scheme}://",
            fix="https:// can be read from, but not written to." if scheme in WEB_SCHEMES else "Check the URL.",
        )
    rest = url.partition("://")[2]
    bucket, _, key = rest.partition("/")
    user, _, host = bucket.rpartition("@")
    if ":" in user or (user and not scheme.startswith("abfs")) or _has_query(rest):
        raise UsageError(
            redacted(url),
            expected=f"{scheme}://bucket/prefix",
            found="a user, a password or a query in the URL",
            fix="Give credentials through the environment or a profile; docs/object-storage.md says which.",
        )
    if not host or ":" in host:
        raise UsageError(redacted(url), expected=f"{scheme}://bucket/prefix", found=f"the bucket {host!r}", fix=_FIX)
    key = key.strip("/")
    if any(part in ("", ".", "..") for part in key.split("/")) and key:
        raise UsageError(url, expected="a prefix without empty parts, . and ..", found=repr(key), fix=_FIX)
    return BucketUrl(scheme, bucket, key)


def redacted(place: str) -> str:
    """A path or URL as messages and files may hold it: without user, password, query and fragment.

    Examples
    --------
    >>> redacted("https://ann:secret@host:8443/a.tif?X-Amz-Signature=abc")
    'https://host:8443/a.tif'
    >>> redacted("s3://bucket/slide #1.svs")
    's3://bucket/slide #1.svs'
    """
    scheme = scheme_of(place)
    if not scheme:
        return place
    if scheme in WEB_SCHEMES:
        parts = urlsplit(place)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    rest = place.partition("://")[2]
    if _has_query(rest):
        rest = rest.partition("?")[0]
    host, slash, key = rest.partition("/")
    user, _, host = host.rpartition("@")
    if user and scheme.startswith("abfs") and ":" not in user:
        host = f"{user}@{host}"  # the container, not a user
    return f"{scheme}://{host}{slash}{key}"


def _has_query(rest: str) -> bool:
    """A ``?`` alone is a letter of a key, or a wildcard; ``?name=value`` is a query."""
    return "=" in rest.partition("?")[2]


_FIX = "Check the URL."
