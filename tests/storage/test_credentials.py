"""Where the credentials of S3 come from."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gigatile.errors import StorageError, UsageError
from gigatile.storage.files import open_bytes
from gigatile.storage.open import open_store
from tests.faulty_proxy import Faults, faulty_proxy
from tests.object_store import ACCESS_KEY, SECRET_KEY

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture
def written(bucket):
    """A bucket with one object in it, and from then on no keys in the environment."""
    open_store(bucket).write("a", b"content")
    return bucket


def forget_keys(environment):
    for name in KEYS:
        environment.delenv(name)


def profile(tmp_path, endpoint=""):
    (tmp_path / ".aws").mkdir()
    lines = f"aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    (tmp_path / ".aws" / "credentials").write_text(f"[lab]\n{lines}")
    (tmp_path / ".aws" / "config").write_text(f"[profile lab]\nregion = us-east-1\n{endpoint}")


def test_a_profile_is_read(environment, written, tmp_path):
    profile(tmp_path)
    forget_keys(environment)
    environment.setenv("AWS_PROFILE", "lab")
    store = open_store(written)
    store.write("b", b"1")
    assert store.read("a") == b"content"


def test_the_region_of_the_environment_and_of_a_profile_may_differ(environment, written, tmp_path):
    profile(tmp_path)
    forget_keys(environment)
    environment.setenv("AWS_PROFILE", "lab")
    environment.setenv("AWS_REGION", "eu-west-1")
    assert open_store(written).read("a") == b"content"


def test_the_endpoint_of_a_profile_is_used(environment, server, written, tmp_path):
    profile(tmp_path, f"endpoint_url = {server.endpoint}\n")
    forget_keys(environment)
    environment.delenv("AWS_ENDPOINT_URL")
    environment.setenv("AWS_PROFILE", "lab")
    assert open_store(written).read("a") == b"content"


def test_a_profile_without_boto3_says_what_to_install(environment, written, tmp_path, monkeypatch):
    profile(tmp_path)
    forget_keys(environment)
    environment.setenv("AWS_PROFILE", "lab")
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(UsageError, match=r"AWS_PROFILE=lab.*boto3.*pip install 'gigatile\[cloud\]'"):
        open_store(written)


def test_a_profile_that_is_not_there_is_a_usage_error(environment, written):
    forget_keys(environment)
    environment.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(UsageError, match="nobody"):
        open_store(written)


@pytest.mark.parametrize("variable", ["AWS_SKIP_SIGNATURE", "AWS_NO_SIGN_REQUEST"])
def test_anonymous_requests_reach_what_is_public_and_nothing_else(environment, s3, written, variable):
    public = s3.make_bucket(f"public-{variable.lower().replace('_', '-')}")
    open_store(public).write("a", b"public")
    forget_keys(environment)
    environment.setenv(variable, "true")
    assert open_bytes(f"{public}/a").read(0, 6) == b"public"
    with pytest.raises(StorageError, match="AWS_SKIP_SIGNATURE"):
        open_store(written).read("a")


def test_whoever_pays_for_requests_says_so(environment, s3, written):
    with faulty_proxy(s3.endpoint, Faults()) as proxy:
        environment.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        environment.setenv("AWS_REQUEST_PAYER", "requester")
        assert open_store(written).read("a") == b"content"
        assert [head for head in proxy.heads if "x-amz-request-payer: requester" in head.lower()] == proxy.heads


def test_the_service_endpoint_comes_before_the_general_one(environment, s3, written):
    environment.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    environment.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint)
    assert open_store(written).read("a") == b"content"


def test_nothing_of_object_storage_is_loaded_before_it_is_used():
    code = "import sys, gigatile.storage.store, gigatile.storage.files as f; assert 'obstore' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONWARNINGS": "error"})
