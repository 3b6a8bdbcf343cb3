"""What can go wrong, as one tree. Every message has four parts: where, expected, found, what to do.

::

    GigatileError                 exit code
    ├── UsageError  (ValueError)      2   the request cannot be carried out as it stands
    │   ├── ImageError                2   an input is missing, unreadable or not what the request needs
    │   ├── ModelError                2   a model cannot be loaded, or does not fit the image or the tile
    │   ├── MemoryRefused             2   no plan holds to the memory budget
    │   └── RunRefused                2   the run directory belongs to something else or is in use
    ├── StorageError  (OSError)       1   the disk is full or the storage went away: stop, resume later
    ├── BlockError  (RuntimeError)    3   one block cannot be computed; the others go on
    │   ├── DecodeError               3   bytes of an image that are there do not decode
    │   └── ModelOutOfMemory          3   the memory does not hold a batch
    └── Cancelled                   130   the user asked to stop
"""

from __future__ import annotations


class GigatileError(Exception):
    """Base of all errors that gigatile raises on purpose.

    Parameters
    ----------
    where : str
        The file, option, model or block that the message is about.
    expected, found : str
        What would have been right, and what there was instead; either may be empty.
    fix : str
        What the reader can do next.
    """

    exit_code = 1

    def __init__(self, where: str, *, expected: str = "", found: str = "", fix: str = "") -> None:
        self.where, self.expected, self.found, self.fix = where, expected, found, fix
        super().__init__(where, expected, found, fix)

    def __str__(self) -> str:
        parts = [f"expected {self.expected}"] if self.expected else []
        parts += [f"found {self.found}"] if self.found else []
        head = f"{self.where}: {', '.join(parts)}" if parts else self.where
        return f"{head.rstrip('.')}. {self.fix}".strip()

    def __reduce__(self) -> tuple[object, ...]:
        # Notes travel along: they hold the traceback of another process.
        notes = {"__notes__": self.__notes__} if hasattr(self, "__notes__") else None
        return _rebuild, (type(self), self.where, self.expected, self.found, self.fix), notes


def _rebuild(kind: type[GigatileError], where: str, expected: str, found: str, fix: str) -> GigatileError:
    return kind(where, expected=expected, found=found, fix=fix)


class UsageError(GigatileError, ValueError):
    """The request cannot be carried out as it stands."""

    exit_code = 2


class ImageError(UsageError):
    """An input image is missing, unreadable, or not what the request needs."""


class ModelError(UsageError):
    """A model cannot be loaded, or does not fit the image or the tile."""


class MemoryRefused(UsageError):
    """No plan for this request holds to the memory budget."""


class RunRefused(UsageError):
    """The run directory belongs to something else, differs from the plan, or is in use."""


class OverlapWarning(UserWarning):
    """The overlap is too small for the model to be exact; the message says what would do."""


class StorageError(GigatileError, OSError):
    """The disk is full or the storage went away; the run stops and can be resumed."""

    exit_code = 1


class BlockError(GigatileError, RuntimeError):
    """One block cannot be computed; it is recorded as failed and the others go on."""

    exit_code = 3


class DecodeError(BlockError):
    """Bytes of an image were read, or end too early, and do not decode; reading them again would not help."""


class ModelOutOfMemory(BlockError):
    """The memory, of the host or of the device, does not hold a batch while the model runs."""


class Cancelled(GigatileError):
    """The user asked the run to stop; blocks in flight were abandoned."""

    exit_code = 130
