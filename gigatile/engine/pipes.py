"""Two bounded threads around a loop: one reads ahead of it, one writes behind it.

::

    ReadAhead ──queue of 1──▶ the loop ──queue of 1──▶ WriteBehind

Memory bound
------------
Each side holds one item in its queue and one in the hands of its thread, whatever their number.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")
_END = object()


class Clock:
    """Busy seconds of the stages of one block."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time that the body takes to a stage; one thread a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@contextmanager
def read_ahead(items: Iterable[T], name: str) -> Generator[Iterator[T]]:
    """Iterate in a thread, one item ahead; what it raises is raised where the item is taken."""
    ready: queue.Queue[object] = queue.Queue(maxsize=1)
    leave = threading.Event()

    def produce() -> None:
        try:
            for item in items:
                if not _put(ready, item, leave):
                    return
            _put(ready, _END, leave)
        except BaseException as error:  # noqa: BLE001  handed to the consumer, which raises it
            _put(ready, _Raised(error), leave)

    def consume() -> Iterator[T]:
        while (item := ready.get()) is not _END:
            if isinstance(item, _Raised):
                raise item.error
            yield item  # type: ignore[misc]

    thread = threading.Thread(target=produce, name=name, daemon=True)
    thread.start()
    try:
        yield consume()
    finally:
        leave.set()
        thread.join()


class WriteBehind(Generic[T]):
    """Hand items to a function in a thread; what it raises is raised at the next `put` or at `close`."""

    def __init__(self, write: Callable[[T], None], name: str) -> None:
        self._write = write
        self._waiting: queue.Queue[object] = queue.Queue(maxsize=1)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def __enter__(self) -> WriteBehind[T]:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._waiting.put(_END)
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def put(self, item: T) -> None:
        """Wait for a free place, then return at once."""
        if self._error is not None:
            raise self._error
        self._waiting.put(item)

    def _run(self) -> None:
        while (item := self._waiting.get()) is not _END:
            if self._error is None:
                try:
                    self._write(item)  # type: ignore[arg-type]
                except BaseException as error:  # noqa: BLE001  raised by put or at the end
                    self._error = error


class _Raised:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def _put(target: queue.Queue[object], item: object, leave: threading.Event) -> bool:
    """Put, unless the consumer has left meanwhile."""
    while not leave.is_set():
        try:
            target.put(item, timeout=0.05)
        except queue.Full:
            continue
        return True
    return False
