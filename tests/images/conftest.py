"""The object store that the tests of the storage use."""

from tests.storage.conftest import bucket, environment, s3, server

__all__ = ["bucket", "environment", "s3", "server"]
