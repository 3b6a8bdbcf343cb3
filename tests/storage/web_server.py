"""A web server for tests: ranges, ETags and conditions, or whichever of them is wanted."""

from __future__ import annotations

import hashlib
import re
import ssl
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class WebServer:
    url: str
    contents: dict[str, bytes]
    requests: list[str] = field(default_factory=list)
    """Method, path and range of each."""
    moved: dict[str, str] = field(default_factory=dict)
    """Path -> where its content is now."""


@contextmanager
def web_server(
    contents: dict[str, bytes],
    *,
    etags: str = "strong",
    ranges: str = "yes",
    query: str = "",
    user: str = "",
    tls: ssl.SSLContext | None = None,
) -> Iterator[WebServer]:
    """Serves `contents` by path; `etags` are strong, weak or none; a query or a user may be demanded."""
    found = WebServer("", contents)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            path, _, asked = self.path.partition("?")
            found.requests.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
            expected = f"Basic {b64encode(user.encode()).decode()}"
            if path in found.moved:
                self.answer(302, headers={"Location": found.moved[path]})
                return
            content = found.contents.get(path)
            tag = "" if content is None else _tag(content, etags)
            if user and self.headers.get("Authorization") != expected:
                self.answer(401)
            elif asked != query:
                self.answer(403)
            elif content is None:
                self.answer(404)
            elif self.headers.get("If-Match", tag) != tag or (tag.startswith("W/") and "If-Match" in self.headers):
                self.answer(412)
            else:
                self.content(content, tag)

        do_HEAD = do_GET

        def content(self, content, tag):
            total, status, headers = len(content), 200, {}
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if asked and ranges == "yes":
                begin = int(asked[1])
                if begin >= total:
                    self.answer(416)
                    return
                end = min(int(asked[2] or total), total - 1)
                content, status = content[begin : end + 1], 206
                headers["Content-Range"] = f"bytes {begin}-{end}/{total}"
            if tag:
                headers["ETag"] = tag
            self.answer(status, content, headers)

        def answer(self, status, content=b"", headers=None):
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    host = "localhost" if tls else "127.0.0.1"
    found.url = f"{'https' if tls else 'http'}://{host}:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _tag(content: bytes, etags: str) -> str:
    digest = hashlib.md5(content).hexdigest()
    return {"strong": f'"{digest}"', "weak": f'W/"{digest}"', "none": ""}[etags]
