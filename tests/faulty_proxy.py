"""A proxy in front of a server that fails some requests, on purpose and from a seed; counts all of them.

::

    client ──▶ FaultyProxy ──▶ server        for each request one draw:
                                             error 500 or 503 | body cut in the middle | slowed | passed on

It listens on the port that the client signs for and hands the bytes on as they are, so signatures stay valid.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

_PIECE = 1 << 16


@dataclass(frozen=True)
class Faults:
    """Shares of the requests, and what is done to them; they add up to 1 at most."""

    error: float = 0.0
    """Answered with 500 or 503 without reaching the server."""
    cut: float = 0.0
    """Done by the server; the connection is closed in the middle of its answer."""
    slow: float = 0.0
    """Passed on after `delay_s`."""
    delay_s: float = 0.3
    latency_s: float = 0.0
    """What every request takes, failed or not: the way to a real store."""
    methods: frozenset[str] = frozenset({"GET", "HEAD", "PUT", "POST", "DELETE"})
    """Others are left alone."""


@dataclass
class FaultyProxy:
    """What a test sees of a running proxy."""

    endpoint: str
    faults: Faults
    requests: Counter[str] = field(default_factory=Counter)
    """By method, everything that came in."""
    injected: Counter[str] = field(default_factory=Counter)
    """By kind of fault."""
    ranges: list[str] = field(default_factory=list)
    """The Range of each GET that had one."""
    heads: list[str] = field(default_factory=list)
    """Request lines and headers."""
    random: random.Random = field(default_factory=random.Random)

    def calm(self) -> None:
        """No faults from now on, and counts of nothing."""
        self.faults = replace(self.faults, error=0.0, cut=0.0, slow=0.0)
        self.requests.clear()
        self.injected.clear()
        self.ranges.clear()
        self.heads.clear()

    def draw(self, method: str) -> str:
        """What happens to the next request."""
        faults = self.faults
        if method not in faults.methods:
            return ""
        luck = self.random.random()
        for kind, share in (("error", faults.error), ("cut", faults.cut), ("slow", faults.slow)):
            if luck < share:
                self.injected[kind] += 1
                return kind
            luck -= share
        return ""


@contextmanager
def faulty_proxy(endpoint: str, faults: Faults, seed: int = 0) -> Iterator[FaultyProxy]:
    """A proxy before an ``http://`` endpoint, on a port of its own."""
    address = urlsplit(endpoint)
    loop = asyncio.new_event_loop()
    proxy = FaultyProxy("", faults, random=random.Random(seed))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Whoever closes a connection, and when, is what is played with here.
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await _serve(proxy, reader, writer, (address.hostname or "", address.port or 80))
        writer.close()

    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20))
    proxy.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        for task in asyncio.all_tasks(loop):
            task.cancel()
            with suppress(asyncio.CancelledError):
                loop.run_until_complete(task)
        loop.close()


async def _serve(
    proxy: FaultyProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: tuple[str, int]
) -> None:
    """The requests of one connection, one after the other; each gets a connection of its own to the server."""
    while head := await reader.readuntil(b"\r\n\r\n"):
        method, headers = head.split(b" ", 1)[0].decode(), _headers(head)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        proxy.requests[method] += 1
        proxy.heads.append(head.decode("latin-1"))
        if method == "GET" and "range" in headers:
            proxy.ranges.append(headers["range"])
        fault = proxy.draw(method)
        await asyncio.sleep(proxy.faults.latency_s + (proxy.faults.delay_s if fault == "slow" else 0))
        if fault == "error":
            status = proxy.random.choice(["500 Internal Server Error", "503 Service Unavailable"])
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
            await writer.drain()
            continue
        upstream_reader, upstream = await asyncio.open_connection(*server)
        upstream.write(_closing(head) + body)
        try:
            await _answer(upstream_reader, writer, method, cut=fault == "cut")
        finally:
            upstream.close()
        if fault == "cut":
            return


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str, *, cut: bool) -> None:
    """Hands an answer on, or its head and half of its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    headers = _headers(head)
    if cut and method != "GET":
        return  # done by the server, and nobody hears of it
    if method == "HEAD" or head[9:12] in (b"204", b"304"):
        writer.write(_kept(head))
    elif "content-length" in headers:
        rest = int(headers["content-length"])
        writer.write(_kept(head))
        rest = rest // 2 if cut else rest
        while rest and (piece := await reader.read(min(rest, _PIECE))):
            writer.write(piece)
            await writer.drain()
            rest -= len(piece)
    else:  # chunked, or to the end of the connection: small answers in XML
        body = await reader.read()
        writer.write(_kept(head) + (body[: len(body) // 2] if cut else body))
    await writer.drain()


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}


def _closing(head: bytes) -> bytes:
    """A request that says that no other follows; Connection is not among the headers that are signed."""
    lines = [line for line in head.split(b"\r\n")[:-2] if not line.lower().startswith(b"connection:")]
    return b"\r\n".join([*lines, b"Connection: close", b"", b""])


def _kept(head: bytes) -> bytes:
    """An answer without the server's word that the connection ends: the one to the client does not."""
    lines = [line for line in head.split(b"\r\n")[:-2] if not line.lower().startswith(b"connection:")]
    return b"\r\n".join([*lines, b"", b""])
