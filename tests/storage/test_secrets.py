"""Keys, passwords and signatures are in no name, message, repr or pickle of a store; URLs travel in those of files."""

from __future__ import annotations

import pickle
import traceback

import pytest

from gigatile.errors import GigatileError, StorageError, UsageError
from gigatile.storage.files import open_bytes, zarr_store
from gigatile.storage.open import open_store
from gigatile.storage.url import redacted
from tests.object_store import ACCESS_KEY, SECRET_KEY

from .web_server import web_server

SECRETS = (ACCESS_KEY, SECRET_KEY, "hush-token")


def shown(error):
    return "\n".join((str(error), repr(error), *traceback.format_exception(error)))


def hides(text):
    content = text if isinstance(text, bytes) else text.encode()
    return not [secret for secret in SECRETS if secret.encode() in content]


def test_a_store_holds_no_keys(s3, bucket):
    store = open_store(f"{bucket}/run")
    store.write("a", b"1")
    assert hides(pickle.dumps(store))
    assert hides(repr(store))
    assert hides(pickle.dumps(open_bytes(f"{bucket}/run/a")))
    assert hides(pickle.dumps(zarr_store(f"{bucket}/run")))


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_a_message_about_access_names_variables_and_no_values(environment, s3, bucket, variable):
    environment.setenv(variable, "hush-token")
    environment.setenv("AWS_SESSION_TOKEN", "hush-token")
    store = open_store(bucket)
    for act in (lambda: store.read("a"), lambda: store.write("a", b"1"), lambda: list(store.entries())):
        with pytest.raises(StorageError, match="AWS_SECRET_ACCESS_KEY") as caught:
            act()
        assert hides(shown(caught.value))
        assert hides(pickle.dumps(caught.value))


def test_without_credentials_it_says_which_were_looked_for(environment, s3, bucket):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        environment.delenv(name)
    environment.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")  # where the machine's role would be asked for
    environment.setattr("gigatile.storage.client.RETRY_S", 0)
    with pytest.raises(StorageError, match=r"no credentials.*AWS_ACCESS_KEY_ID"):
        open_store(bucket).read("a")


@pytest.mark.parametrize(
    "url",
    [
        "s3://ann:hush-token@bucket/run",
        "s3://hush-token@bucket/run",
        "s3://bucket/run?X-Amz-Signature=hush-token",
        "az://container/run?sig=hush-token",
        "abfss://container:hush-token@account.dfs.core.windows.net/run",
        "https://ann:hush-token@host/run?X-Amz-Signature=hush-token",
    ],
)
def test_a_store_is_not_opened_by_a_url_with_secrets(url):
    with pytest.raises(UsageError) as caught:
        open_store(url)
    assert hides(shown(caught.value))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/a/b?c=d", "/a/b?c=d"),
        ("s3://bucket/slide #1?.svs", "s3://bucket/slide #1?.svs"),
        ("s3://u:p@bucket/a?X=1", "s3://bucket/a"),
        ("https://u:p@host:1/a%20b?X=1#f", "https://host:1/a%20b"),
        ("abfss://c@a.host/b", "abfss://c@a.host/b"),
    ],
)
def test_a_place_is_shown_without_its_secrets(url, expected):
    assert redacted(url) == expected


def test_a_signed_url_is_read_here_and_by_workers_and_shown_nowhere():
    with web_server({"/a.tif": b"0123456789" * 20_000}, query="sig=hush-token") as server:
        url = f"{server.url}/a.tif?sig=hush-token"
        file = open_bytes(url)
        again = pickle.loads(pickle.dumps(file))
        assert again.read(150_000, 4) == b"0123"
        for text in (file.name, repr(file), str(file.identity()), repr(again)):
            assert hides(text)
        server.contents["/a.tif"] = b"another"
        missing = url.replace("a.tif", "b.tif")  # a traceback quotes the lines of this file
        for act in (lambda: again.read(150_000, 4), lambda: open_bytes(missing)):
            with pytest.raises((GigatileError, OSError)) as caught:
                act()
            assert hides(shown(caught.value))
        assert hides(repr(zarr_store(f"{server.url}/z?sig=hush-token")))


def test_a_user_and_password_reach_the_server_and_nobody_else():
    with web_server({"/a.tif": b"x" * 100_000}, user="ann:hush-token") as server:
        file = open_bytes(server.url.replace("//", "//ann:hush-token@") + "/a.tif")
        assert file.read(90_000, 3) == b"xxx"
        assert hides(file.name + repr(file))
        with pytest.raises(UsageError, match="401"):
            open_bytes(f"{server.url}/a.tif")
