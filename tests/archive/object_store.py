"""An object store of the tests: a server for HTTP that counts its requests, and fsspec's filesystem for it.

It behaves like S3: an object appears when its upload is complete, a request reads a range of bytes, and there are no
folders.
"""

from __future__ import annotations

import http.client
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote

import fsspec
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

SCHEME = "counted"


class ObjectStore:
    """The server.

    Attributes:
        objects: the bytes of each object.
        requests: each request: its method, the object, and the range of bytes.
    """

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self._server = server
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, str]] = []
        #: the status with which each request is refused; ``None`` to answer it
        self.refuses: int | None = None

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def url(self, path: str = "archive") -> str:
        """Return the URL of fsspec for a folder."""
        return f"{SCHEME}://127.0.0.1:{self.port}/{path}"

    @contextmanager
    def counted(self) -> Iterator[list[tuple[str, str, str]]]:
        """Yield the list of the requests that are made in the block."""
        before = len(self.requests)
        found: list[tuple[str, str, str]] = []
        yield found
        found += self.requests[before:]


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """Run an object store."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    store = ObjectStore(server)
    server.store = store  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    fsspec.register_implementation(SCHEME, CountedFileSystem, clobber=True)
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def store(self) -> ObjectStore:
        return self.server.store  # type: ignore[attr-defined,no-any-return]

    def log_message(self, *args: Any) -> None:
        pass

    def _begin(self) -> str | None:
        key = unquote(self.path.lstrip("/"))
        self.store.requests.append((self.command, key, self.headers.get("Range", "")))
        if self.store.refuses is not None:
            self._answer(self.store.refuses, b"refused")
            return None
        return key

    def _answer(self, status: int, body: bytes = b"", size: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if size is None else size))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        key = self._begin()
        if key is None:
            return
        body = self.store.objects.get(key)
        self._answer(404 if body is None else 200, size=0 if body is None else len(body))

    def do_GET(self) -> None:
        key = self._begin()
        if key is None:
            return
        if key.startswith("?list="):
            prefix = key.removeprefix("?list=")
            found = {name: len(body) for name, body in self.store.objects.items() if name.startswith(prefix)}
            self._answer(200, json.dumps(found).encode())
            return
        body = self.store.objects.get(key)
        if body is None:
            self._answer(404)
            return
        wanted = self.headers.get("Range")
        if wanted is None:
            self._answer(200, body)
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        self._answer(206, body[int(first) : int(last) + 1])

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        key = self._begin()
        if key is not None:
            self.store.objects[key] = body
            self._answer(200)

    def do_DELETE(self) -> None:
        key = self._begin()
        if key is not None:
            found = self.store.objects.pop(key, None)
            self._answer(404 if found is None else 204)


class CountedFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """fsspec's filesystem for the object store. Nothing is cached."""

    protocol = SCHEME
    #: what the library raises for each part of an upload
    part_error: Exception | None = None

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(path).removeprefix(f"{SCHEME}://").rstrip("/")

    def _request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, int, bytes]:
        host, _, key = self._strip_protocol(path).partition("/")
        connection = http.client.HTTPConnection(host, timeout=10)
        try:
            connection.request(method, "/" + quote(key, safe="/?="), body=body, headers=headers)
            answer = connection.getresponse()
            found = answer.read()
            size = int(answer.headers["Content-Length"])
        finally:
            connection.close()
        if answer.status == 404:
            raise FileNotFoundError(path)
        if answer.status >= 400:
            raise OSError(f"the object store answers {answer.status} to {method} {path}")
        return answer.status, size, found

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        _, size, _ = self._request("HEAD", path)
        return {"name": self._strip_protocol(path), "size": size, "type": "file"}

    def exists(self, path: str, **kwargs: Any) -> bool:
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        if start is None and end is None:
            return self._request("GET", path)[2]
        assert start is not None
        assert end is not None
        return self._request("GET", path, Range=f"bytes={start}-{end - 1}")[2]

    def find(self, path: str, **kwargs: Any) -> dict[str, Any]:
        host, _, key = self._strip_protocol(path).partition("/")
        found = json.loads(self._request("GET", f"{host}/?list={key}/")[2])
        return {f"{host}/{name}": {"name": f"{host}/{name}", "size": size} for name, size in found.items()}

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        pass

    def rm_file(self, path: str) -> None:
        self._request("DELETE", path)

    def put_object(self, path: str, body: bytes) -> None:
        self._request("PUT", path, body)

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        return _Upload(self, path, mode, **kwargs)


class _Upload(AbstractBufferedFile):  # type: ignore[misc]
    """A file that becomes an object when it is closed."""

    def _initiate_upload(self) -> None:
        self._parts = io.BytesIO()

    def _upload_chunk(self, final: bool = False) -> bool:
        if self.fs.part_error is not None:
            raise self.fs.part_error
        self._parts.write(self.buffer.getvalue())
        if final:
            self.fs.put_object(self.path, self._parts.getvalue())
        return True
