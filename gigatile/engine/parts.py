"""The tables that a block leaves for the stages after it, as Parquet files in a folder of its own.

::

    parts/3/7/closed.parquet    finished rows, sorted
              open.parquet      rows that something in another block may still meet
              ...               of instances also pairs, labels, and later ids/ids.parquet
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gigatile.errors import BlockError
from gigatile.objects.sorted_rows import Source
from gigatile.outputs.shard import ShardReceipt
from gigatile.storage.store import Store

ROWS = 4096
"""Of a row group: what is held of a part while all are merged."""


def write_tables(
    store: Store, folder: str, tables: Mapping[str, Any], group: Mapping[str, int] | None = None
) -> ShardReceipt:
    """Write the tables of one block; the record that claims them is not written yet.

    Memory bound
    ------------
    The tables, encoded, one after the other.

    Parameters
    ----------
    store : Store
        The run directory.
    folder : str
        Of the block, with a slash at its end.
    tables : mapping of str to pyarrow.Table
        By name.
    group : mapping of str to int, optional
        Rows of a row group, by the name of the table; `ROWS` if not given.

    Raises
    ------
    StorageError
        The storage is full or went away.
    """
    import pyarrow.parquet

    digest, nbytes = hashlib.sha256(), 0
    for name in sorted(tables):
        sink = io.BytesIO()
        rows = (group or {}).get(name, ROWS)
        # Rows that stand alone hold what is compressed already.
        codec = "none" if rows == 1 else "zstd"
        pyarrow.parquet.write_table(
            tables[name], sink, row_group_size=rows, compression=codec, write_page_checksum=True
        )
        content = sink.getbuffer()
        with store.writer(f"{folder}{name}.parquet") as writer:
            writer.write(content)
            writer.finish()
        digest.update(content)
        nbytes += len(content)
    return ShardReceipt(nbytes, digest.hexdigest(), False)


class TableReader:
    """One table of a part: its row groups, read when asked for.

    Memory bound
    ------------
    The bytes of the file, and what was asked for, decoded.

    Raises
    ------
    BlockError
        It is not there, or harmed: its block has to be done again.
    """

    def __init__(self, store: Store, key: str) -> None:
        import pyarrow.parquet

        content = store.read(key)
        if content is None:
            raise _lost(store, key, "nothing")
        try:
            buffer = pyarrow.BufferReader(content)
            self._file = pyarrow.parquet.ParquetFile(buffer, page_checksum_verification=True)
        except (OSError, pyarrow.ArrowException) as error:
            raise _lost(store, key, str(error)) from error
        self._store, self._key = store, key

    @property
    def names(self) -> list[str]:
        """Of its columns."""
        return list(self._file.schema_arrow.names)

    @property
    def groups(self) -> int:
        """Number of row groups."""
        return int(self._file.num_row_groups)

    def group(self, index: int, columns: list[str] | None = None) -> Any:
        """One row group as a pyarrow.Table."""
        import pyarrow as pa

        try:
            return self._file.read_row_group(index, columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise _lost(self._store, self._key, str(error)) from error

    def __iter__(self) -> Iterator[Any]:
        return (self.group(index) for index in range(self.groups))

    def whole(self, columns: list[str] | None = None) -> Any:
        """All of it as one pyarrow.Table."""
        import pyarrow as pa

        try:
            return self._file.read(columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise _lost(self._store, self._key, str(error)) from error


def sorted_source(store: Store, key: str, least: float) -> Source:
    """A sorted table of a part, opened only when it is needed."""
    return Source(least, _opener(store, key))


def _opener(store: Store, key: str) -> Callable[[], Iterator[Any]]:
    return lambda: iter(TableReader(store, key))


def _lost(store: Store, key: str, found: str) -> BlockError:
    fix = "Run `gigatile verify` on the directory, then the same command again: what is damaged is done again."
    return BlockError(store.where(key), expected="a table of a block that is done", found=found, fix=fix)
