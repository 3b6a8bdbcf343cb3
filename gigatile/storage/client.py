"""Connections to object stores and web servers: settings from the environment, patience, errors in our words.

Patience, in three steps: obstore repeats a request that met a 5xx, a timeout or a connection that broke off, with
growing pauses; `patiently` repeats what obstore gives up on because an answer had begun; whoever asks the store to
slow down is given minutes. An endpoint that is not there is given up on within a minute.
"""

from __future__ import annotations

import os
import random
import re
import time
from base64 import b64encode
from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from gigatile.errors import GigatileError, StorageError, UsageError
from gigatile.storage.url import BUCKET_SCHEMES, WEB_SCHEMES, bucket_url, redacted, scheme_of

T = TypeVar("T")


class StorageRefused(StorageError):
    """The store answered, and the answer was no: asking again changes nothing, asking for something else may."""


CONNECT_S = 5
STALLED_S = 15
"""No byte for so long: the connection is given up."""
REQUEST_S = 180
"""One request with its body: 8 MiB at 0.4 Mbit/s."""
RETRY_S = 35
"""No new attempt after this long: with the last one, an endpoint that is not there costs less than a minute."""
SLOW_DOWN_S = 180
"""Patience with a store that answers but asks for fewer requests."""
LONGEST_PAUSE_S = 5.0

_METADATA_SERVICE = re.compile(r"//169\.254\.|/latest/(api/token|meta-data)|//metadata\.google|/metadata/identity")
"""Where cloud machines ask for the credentials of their role: the last place that is looked at."""
_AUTHORITIES = ("AWS_CA_BUNDLE", "SSL_CERT_FILE")
_LOOKED_AT = {
    "AWS": (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_PROFILE",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "AWS_SKIP_SIGNATURE",
        "AWS_REQUEST_PAYER",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    ),
    "GOOGLE": (
        "GOOGLE_APPLICATION_CREDENTIALS",
        "GOOGLE_SERVICE_ACCOUNT",
        "GOOGLE_SERVICE_ACCOUNT_KEY",
        "GOOGLE_SKIP_SIGNATURE",
    ),
    "AZURE": (
        "AZURE_STORAGE_ACCOUNT_NAME",
        "AZURE_STORAGE_ACCOUNT_KEY",
        "AZURE_STORAGE_SAS_TOKEN",
        "AZURE_CLIENT_ID",
        "AZURE_SKIP_SIGNATURE",
    ),
}


def connect(url: str) -> Any:
    """The obstore store of a bucket, or of one file or directory on a web server; kept for this process.

    Parameters
    ----------
    url : str
        ``s3://bucket`` and its like (what follows the bucket does not matter), or a whole ``https://`` URL, whose
        objects are then below it.

    Raises
    ------
    UsageError
        obstore is not installed, or the settings in the environment make no sense.
    """
    if scheme_of(url) in WEB_SCHEMES:
        return _connection(url, _environment(*_AUTHORITIES))
    root = bucket_url(url).root
    return _connection(root, _environment(BUCKET_SCHEMES[scheme_of(root)], *_AUTHORITIES))


def connect_below(url: str) -> Any:
    """As `connect`, for a store whose keys begin below the URL."""
    if scheme_of(url) in WEB_SCHEMES:
        parts = urlsplit(url)
        return _connection(urlunsplit(parts._replace(path=parts.path.rstrip("/"))), _environment(*_AUTHORITIES))
    place = bucket_url(url)
    # obstore decodes the path of a URL
    return _connection(
        f"{place.root}/{quote(place.key)}".rstrip("/"), _environment(BUCKET_SCHEMES[place.scheme], *_AUTHORITIES)
    )


def patiently(where: str, url: str, call: Callable[[], T]) -> T:
    """What `call` returns, after as many attempts as it takes and is worth; for calls that may be repeated.

    Raises
    ------
    FileNotFoundError
        There is no such object. (A bucket that is not there is a `StorageError`.)
    StorageError
        The store does not answer, or refuses; `where` names the object.
    """
    base = exceptions().BaseError
    begin, pause = time.monotonic(), 0.1
    while True:
        try:
            return call()
        except FileNotFoundError as error:
            if _code(str(error)) == "NoSuchBucket":
                raise storage_error(where, url, error) from None
            raise FileNotFoundError(where) from None
        except (base, OSError) as error:
            # `from None`: the text of the cause may hold a signed URL, and tracebacks go to ledgers.
            if isinstance(error, GigatileError):
                raise
            text = str(error)
            patience = SLOW_DOWN_S if _asks_to_slow_down(text) else RETRY_S
            if not _may_pass(error, text) or time.monotonic() - begin > patience:
                raise storage_error(where, url, error) from None
        time.sleep(random.uniform(pause / 2, pause))
        pause = min(2 * pause, LONGEST_PAUSE_S)


def storage_error(where: str, url: str, error: Exception) -> StorageError:
    """An error of obstore as one paragraph: what failed, and which variables were looked at; no values of theirs."""
    text = str(error)
    found = _brief(text, url) or type(error).__name__
    root = redacted(url) if scheme_of(url) in WEB_SCHEMES else bucket_url(url).root
    seen = _seen(url)
    if _code(text) == "NoSuchBucket":
        return StorageRefused(where, expected=f"the bucket {root}", found="no such bucket", fix=f"Create it. {seen}")
    if _METADATA_SERVICE.search(text):
        found = "no credentials, in the environment, a profile or this machine's role"
        return StorageRefused(where, expected=f"access to {root}", found=found, fix=f"Set them. {seen}")
    if _is_denied(error, text):
        fix = f"Check the credentials. {seen}"
        return StorageRefused(where, expected=f"access to {root}", found=found, fix=fix)
    if "error sending request" in text or "timed out" in text.lower():
        fix = f"Check the endpoint and the network, then run the same command again. {seen}"
        return StorageError(where, expected=f"an answer from {_endpoint(url)}", found=found, fix=fix)
    if "redirect" in text.lower():
        fix = f"Set AWS_REGION. {seen}"
        return StorageError(where, expected="the region of the bucket", found=found, fix=fix)
    fix = "See that the storage is there and does what is asked, then run the same command again."
    refused = type(error).__name__ == "NotSupportedError" or re.search(r"status code: 4\d\d", text)
    kind = StorageRefused if refused and not _may_pass(error, text) else StorageError
    return kind(where, expected="storage that does what is asked", found=found, fix=fix)


def exceptions() -> Any:
    """The exceptions of obstore."""
    return obstore().exceptions


def obstore() -> Any:
    """The library, with everything of it that is used here.

    Raises
    ------
    UsageError
        It is not installed.
    """
    try:
        import obstore as library
        import obstore.exceptions
        import obstore.store
    except ImportError as error:
        raise UsageError(
            "object storage", expected="the package obstore", found=str(error), fix="pip install 'gigatile[cloud]'"
        ) from error
    return library


@lru_cache(maxsize=64)
def _connection(url: str, environment: str) -> Any:
    """`environment` is here to tell settings apart, should they change while the process lives."""
    del environment
    stores, scheme = obstore().store, scheme_of(url)
    settings: dict[str, Any] = {"client_options": _client_options(url), "retry_config": _retries()}
    try:
        if scheme in WEB_SCHEMES:
            url = _without_user(url, settings["client_options"])
            return stores.HTTPStore(url, **settings)
        if BUCKET_SCHEMES[scheme] == "AWS":
            settings |= _s3_settings()
        return stores.from_url(url, **settings)
    except (exceptions().BaseError, ValueError) as error:
        if isinstance(error, GigatileError):
            raise
        fix = f"Check the URL and the environment. {_seen(url)}"
        raise UsageError(redacted(url), found=_brief(str(error), url), fix=fix) from None


def _without_user(url: str, options: dict[str, Any]) -> str:
    """Moves ``user:password@`` from a URL to the header that obstore does not make of it."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    if user:
        options["default_headers"] = {"authorization": f"Basic {b64encode(unquote(user).encode()).decode()}"}
    return urlunsplit(parts._replace(netloc=host))


def _client_options(url: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        "connect_timeout": timedelta(seconds=CONNECT_S),
        "read_timeout": timedelta(seconds=STALLED_S),
        "timeout": timedelta(seconds=REQUEST_S),
        # Whoever writes http:// into an endpoint means it, as with every other client of S3.
        "allow_http": _endpoint(url).startswith("http://") or _is_set("AWS_ALLOW_HTTP"),
    }
    for name in _AUTHORITIES:
        if os.environ.get(name):  # an authority of one's own, as stores inside an institution have
            options["root_certificate"] = _certificates(name)
            break
    return options


def _certificates(variable: str) -> bytes:
    path = os.environ[variable]
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(
            f"{variable}={path}",
            expected="a file of certificates",
            found=str(error.strerror),
            fix="Correct or unset it.",
        ) from error


def _retries() -> dict[str, Any]:
    return {
        "max_retries": 12,
        "retry_timeout": timedelta(seconds=RETRY_S),
        "backoff": {
            "init_backoff": timedelta(milliseconds=100),
            "max_backoff": timedelta(seconds=LONGEST_PAUSE_S),
            "base": 2,
        },
    }


def _s3_settings() -> dict[str, Any]:
    """What obstore does not find by itself: anonymous requests by AWS_NO_SIGN_REQUEST, and profiles."""
    if _is_set("AWS_SKIP_SIGNATURE") or _is_set("AWS_NO_SIGN_REQUEST"):
        return {"skip_signature": True}
    if os.environ.get("AWS_ACCESS_KEY_ID") or not _has_profile():
        return {}
    try:
        import boto3  # type: ignore[import-untyped]
        from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        if "AWS_PROFILE" not in os.environ:
            return {}
        expected, fix = "the package boto3, which reads profiles", "pip install 'gigatile[cloud]'"
        raise UsageError(_profile(), expected=expected, found=str(error), fix=fix) from error
    try:
        session = boto3.Session()
        if session.get_credentials() is None:
            return {}
        endpoint = session.client("s3").meta.endpoint_url
        settings: dict[str, Any] = {"credential_provider": Boto3CredentialProvider(session)}
    except BotoCoreError as error:
        fix = "Correct it in ~/.aws, or unset AWS_PROFILE."
        raise UsageError(_profile(), expected="a profile that can be used", found=str(error), fix=fix) from error
    if not _endpoint("s3://").startswith("http") and ".amazonaws.com" not in endpoint:
        settings["endpoint"] = endpoint
        settings["client_options"] = _client_options("s3://") | {"allow_http": endpoint.startswith("http://")}
    return settings


def _profile() -> str:
    return f"AWS_PROFILE={os.environ.get('AWS_PROFILE', 'default')}"


def _has_profile() -> bool:
    files = (("AWS_SHARED_CREDENTIALS_FILE", "credentials"), ("AWS_CONFIG_FILE", "config"))
    return "AWS_PROFILE" in os.environ or any(
        Path(os.environ.get(variable) or f"~/.aws/{name}").expanduser().is_file() for variable, name in files
    )


def _endpoint(url: str) -> str:
    """Where requests go, as far as the environment says."""
    if scheme_of(url) in WEB_SCHEMES:
        return redacted(url)
    if BUCKET_SCHEMES[scheme_of(url)] == "AWS":
        for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
            if os.environ.get(name):
                return redacted(os.environ[name])
    return bucket_url(url).root if url.partition("://")[2] else url


def _environment(*words: str) -> str:
    settings = sorted((name, value) for name, value in os.environ.items() if name.startswith(words))
    return sha256(repr(settings).encode()).hexdigest()


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").strip().lower() in {"1", "true", "yes", "y", "t", "on"}


def _seen(url: str) -> str:
    names = _LOOKED_AT.get(BUCKET_SCHEMES.get(scheme_of(url), ""), ())
    if not names:
        return ""
    there = [name for name in names if os.environ.get(name)]
    missing = [name for name in names if name not in there]
    return f"In the environment are {', '.join(there) or 'none'}; looked for, too: {', '.join(missing)}."


def _is_denied(error: Exception, text: str) -> bool:
    """A list that is refused is a `GenericError` of obstore."""
    return type(error).__name__ in {"PermissionDeniedError", "UnauthenticatedError"} or bool(
        re.search(r"status code: 40[13]", text)
    )


def _may_pass(error: Exception, text: str) -> bool:
    """Whether another attempt may do better: the store was reached and broke off, or failed on its side."""
    if type(error).__name__ not in {"GenericError", "OSError", "JoinError", "ConnectionError", "TimeoutError"}:
        return False
    status = re.search(r"status code: (\d{3})", text)
    return "redirect" not in text.lower() and (status is None or status[1][0] == "5" or status[1] in {"408", "429"})


def _asks_to_slow_down(text: str) -> bool:
    return _code(text) == "SlowDown" or bool(re.search(r"status code: (503|429)", text))


def _code(text: str) -> str:
    """The error code of S3, where the answer had one."""
    found = re.search(r"<Code>(\w+)</Code>", text)
    return found[1] if found else ""


def _brief(text: str, url: str) -> str:
    """One line of what obstore says. Of an answer only its code and message: others may repeat the key of the user."""
    head = re.split(r"\n|<\?xml|<Error>|<html", text.replace(url, redacted(url)), maxsplit=1)[0]
    head = re.sub(r"https?://\S+", lambda found: redacted(found[0]), head).strip().rstrip(":")
    head = head.rpartition(" - ")[2].replace("Server returned non-2xx status code: ", "").removesuffix(" by")
    message = re.search(r"<Message>([^<]*)</Message>", text)
    parts = [head[:300], _code(text), message[1][:200] if message else ""]
    return ": ".join(part.rstrip(".") for part in parts if part)
