"""Where the objects of a Zarr hierarchy lie, what `zarr.open` is given, and the fingerprint of the whole.

::

    Tree ─┬─ LocalTree    a directory
          └─ RemoteTree   a prefix of a bucket, or a directory of a web server
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, TypeVar

from gigatile.errors import ImageError, StorageError
from gigatile.storage.files import LocalFile, is_prefix, zarr_store
from gigatile.storage.reading import sampled_digest
from gigatile.storage.url import WEB_SCHEMES, redacted, scheme_of

T = TypeVar("T")
METADATA_FILES = (".zarray", ".zgroup", ".zattrs", ".zmetadata", "zarr.json")
_SAMPLED_OBJECTS = 16


class Tree(Protocol):
    """The objects below one root."""

    def has_metadata(self) -> bool:
        """Whether a metadata document lies right below the root."""
        ...

    def store(self) -> Any:
        """What `zarr.open` takes."""
        ...

    def reading(self, call: Callable[[], T]) -> T:
        """What `call`, which reads from the store, returns; tried again where that may help.

        Raises
        ------
        OSError
            The storage failed.
        """
        ...

    def identity(self, groups: Sequence[str], arrays: Sequence[str]) -> Mapping[str, str | int]:
        """A digest of the metadata of groups and arrays, and of sampled objects of the arrays.

        Parameters
        ----------
        groups, arrays : sequence of str
            Paths below the root; empty for the root itself.
        """
        ...


def open_tree(place: str) -> Tree:
    """The tree at a path or URL.

    Raises
    ------
    ImageError
        There is no such directory.
    """
    if scheme_of(place) not in ("", "file"):
        return RemoteTree(place)
    path = Path(place.removeprefix("file://"))
    if not path.is_dir():
        raise ImageError(str(path), expected="a Zarr directory", found="no such directory", fix="Check the path.")
    return LocalTree(path)


class LocalTree:
    """See `Tree`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def has_metadata(self) -> bool:
        """See `Tree.has_metadata`."""
        return any((self._root / name).is_file() for name in METADATA_FILES)

    def store(self) -> Any:
        """See `Tree.store`."""
        return str(self._root)

    def reading(self, call: Callable[[], T]) -> T:
        """See `Tree.reading`."""
        return call()

    def identity(self, groups: Sequence[str], arrays: Sequence[str]) -> Mapping[str, str | int]:
        """See `Tree.identity`."""
        root, digest = self._root, sha256()
        for folder in (root / group for group in groups):
            for name in METADATA_FILES:
                if (folder / name).is_file():
                    digest.update(f"{folder.relative_to(root)}/{name}\n".encode())
                    digest.update((folder / name).read_bytes())
        objects = sorted({path for array in arrays for path in _files(root / array)})
        for path in sampled(objects):
            size = path.stat().st_size
            digest.update(f"{path.relative_to(root)} {size}\n".encode())
            if size:
                digest.update(sampled_digest(LocalFile(path).read, size).encode())
        return {"objects": len(objects), "sha256": digest.hexdigest()}


class RemoteTree:
    """See `Tree`."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def has_metadata(self) -> bool:
        """See `Tree.has_metadata`."""
        return is_prefix(self._url)

    def store(self) -> Any:
        """See `Tree.store`."""
        return zarr_store(self._url)

    def reading(self, call: Callable[[], T]) -> T:
        """See `Tree.reading`."""
        from gigatile.storage.client import patiently

        return patiently(redacted(self._url), self._url, call)

    def identity(self, groups: Sequence[str], arrays: Sequence[str]) -> Mapping[str, str | int]:
        """See `Tree.identity`. Metadata documents are read, of other objects the listing is digested."""
        from gigatile.storage.client import connect_below, patiently

        client, name = connect_below(self._url), redacted(self._url)
        digest = sha256()
        for group in groups:
            for document in METADATA_FILES:
                key = f"{group}/{document}".lstrip("/")
                try:
                    content = patiently(name, self._url, partial(_content, client, key))
                except FileNotFoundError:
                    continue
                digest.update(f"{key}\n".encode())
                digest.update(content)
        if scheme_of(self._url) in WEB_SCHEMES:
            return {"sha256": digest.hexdigest()}
        found: dict[str, tuple[int, str]] = {}
        for array in arrays:
            listed = patiently(name, self._url, partial(_listed, client, array))
            found |= {key: (size, etag) for key, size, etag in listed if key.rpartition("/")[2] not in METADATA_FILES}
        for key in sampled(sorted(found)):
            digest.update(f"{key} {found[key][0]} {found[key][1]}\n".encode())
        return {"objects": len(found), "sha256": digest.hexdigest()}


def storage_failed(error: BaseException) -> bool:
    """Whether it was the storage and not a codec: codecs raise `OSError` as well, but without a number."""
    if isinstance(error, StorageError | ConnectionError | TimeoutError):
        return True
    return type(error).__module__.startswith("obstore") or (isinstance(error, OSError) and error.errno is not None)


def sampled(objects: Sequence[Any]) -> list[Any]:
    """16 of them at even distances, or all."""
    indices = {len(objects) * k // _SAMPLED_OBJECTS for k in range(_SAMPLED_OBJECTS)} if objects else set()
    return [objects[i] for i in sorted(indices)]


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.name not in METADATA_FILES and path.is_file())


def _content(client: Any, key: str) -> bytes:
    from gigatile.storage.client import obstore

    return bytes(obstore().get(client, key).bytes())


def _listed(client: Any, prefix: str) -> list[tuple[str, int, str]]:
    from gigatile.storage.client import obstore

    pages = obstore().list(client, prefix=prefix or None, chunk_size=1000)
    return [(str(entry["path"]), int(entry["size"]), entry["e_tag"] or "") for page in pages for entry in page]
