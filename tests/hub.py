"""A small Hugging Face Hub on loopback, with what can go wrong between it and its client."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

COMMIT = "c0ffee" * 6 + "c0ff"
LARGE = (".safetensors", ".bin", ".pt")
"""Endings of files that lie in the storage beside the repository, as all weights of the real Hub do."""


@dataclass
class Asked:
    """A request as the server saw it."""

    method: str
    path: str
    range: str | None
    token: str | None


@dataclass
class Fault:
    """What goes wrong with requests whose path has `part` in it, `times` times.

    Attributes:
        kind: "status", "cut" after `after` bytes of the body, "reset" likewise, "stall" likewise until `go` is set,
            "wait" for `go` and then go on, "wrong" bytes of the right number, "hang" until `go` without an answer, or
            "no etag".
    """

    kind: str
    part: str
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    after: int = 0
    times: int = 10**6
    methods: tuple[str, ...] = ("HEAD", "GET")
    go: threading.Event = field(default_factory=threading.Event)


class Hub:
    """The server, its repositories, its faults, and what it was asked."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.plain: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.asked: list[Asked] = []
        self.stalled = threading.Event()
        hub = self

        class Handler(_Handler):
            def answer(self) -> None:
                hub._answer(self)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def put(self, repository: str, folder: Path, *names: str) -> None:
        """Serve the files of a folder, or some of them."""
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        self.repositories[repository] = {name: files[name] for name in names or files}

    def fault(self, kind: str, part: str, **provenance: Any) -> Fault:
        self.faults.append(Fault(kind, part, **provenance))
        return self.faults[-1]

    def bodies(self, name: str) -> list[Asked]:
        """What was asked of the content of a large file: of the storage, or of a plain address."""
        return [one for one in self.asked if one.method == "GET" and re.match(f"/(storage|plain)/.*{name}", one.path)]

    def close(self) -> None:
        for fault in self.faults:
            fault.go.set()
        self.server.shutdown()
        self.server.server_close()

    def _answer(self, request: _Handler) -> None:
        path = urlsplit(request.path).path
        self.asked.append(
            Asked(request.command, path, request.headers.get("Range"), request.headers.get("Authorization"))
        )
        fault = self._fault(request.command, path)
        if fault is not None and fault.kind == "status":
            request.reply(fault.status, b"{}", **fault.headers)
            return
        if fault is not None and fault.kind == "hang":
            fault.go.wait(180)
            request.close_connection = True
            return
        if path.startswith("/plain/") and path.removeprefix("/plain/") in self.plain:
            request.body(self.plain[path.removeprefix("/plain/")], fault, self.stalled)
        elif path.startswith("/storage/"):
            repository, name = path.removeprefix("/storage/").split("/")
            request.body(self.repositories[repository.replace("~", "/")][name], fault, self.stalled)
        elif path.startswith("/api/models/"):
            self._info(request, path.removeprefix("/api/models/").removesuffix("/revision/main"))
        else:
            self._resolve(request, path, fault)

    def _fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.kind in ("cut", "reset", "stall", "wait", "wrong") and not path.startswith(
                ("/storage/", "/plain/")
            ):
                continue
            if fault.part in path and method in fault.methods and fault.times > 0:
                fault.times -= 1
                return fault
        return None

    def _info(self, request: _Handler, repository: str) -> None:
        if repository not in self.repositories:
            request.reply(401, b"{}", **{"X-Error-Code": "RepoNotFound"})
            return
        names = [{"rfilename": name} for name in self.repositories[repository]]
        said = {"id": repository, "sha": COMMIT, "siblings": names, "private": False, "tags": [], "downloads": 0}
        request.reply(200, json.dumps(said).encode(), **{"Content-Type": "application/json"})

    def _resolve(self, request: _Handler, path: str, fault: Fault | None) -> None:
        """`/ORG/NAME/resolve/REVISION/FILE`: a small file itself, a large one by way of the storage on another host."""
        repository, _, rest = path[1:].partition("/resolve/")
        name = rest.partition("/")[2]
        if repository not in self.repositories:
            request.reply(401, b"", **{"X-Error-Code": "RepoNotFound"})
            return
        head = {"X-Repo-Commit": COMMIT}
        if name not in self.repositories[repository]:
            request.reply(404, b"", **head, **{"X-Error-Code": "EntryNotFound"})
            return
        content = self.repositories[repository][name]
        etag = {} if fault is not None and fault.kind == "no etag" else {"ETag": f'"{_blob(content)}"'}
        if not name.endswith(LARGE):
            request.body(content, fault, self.stalled, **head, **etag)
            return
        storage = f"http://localhost:{self.server.server_port}/storage/{repository.replace('/', '~')}/{name}"
        linked = {"X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Linked-Size": str(len(content))}
        request.reply(302, b"", **head, **etag, **(linked if etag else {}), Location=storage)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        raise NotImplementedError

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def log_message(self, *_: Any) -> None:
        pass

    def reply(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def body(self, content: bytes, fault: Fault | None, stalled: threading.Event, **headers: str) -> None:
        """The content or, as `Range` asks, its end; and on the way a fault."""
        start, total = 0, len(content)
        if (asked := self.headers.get("Range")) is not None:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        content = content[start:]
        if fault is None or self.command == "HEAD" or fault.kind == "no etag":
            self.reply(206 if start else 200, content, **headers)
            return
        if fault.kind == "wrong":
            self.reply(206 if start else 200, bytes(byte ^ 1 for byte in content), **headers)
            return
        if fault.kind == "wait":
            fault.go.wait(180)
            self.reply(206 if start else 200, content, **headers)
            return
        first = content[: fault.after]
        self.reply(206 if start else 200, first, **{**headers, "Content-Length": str(len(content))})
        self.wfile.flush()
        if fault.kind == "stall":
            stalled.set()
            fault.go.wait(180)
        if fault.kind == "reset":
            time.sleep(0.05)  # what was sent is lost if it was not read
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        self.close_connection = True


def _blob(content: bytes) -> str:
    """The name that git gives a content, the ETag of small files."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def environment(hub: Hub, cache: Path, **more: str) -> dict[str, str]:
    """Of a process that knows this hub alone."""
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGINGFACE", "TRANSFORMERS"))
    }
    own = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(cache), "HF_TOKEN_PATH": str(cache / "no-token")}
    return {**kept, **own, "OMP_NUM_THREADS": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "150", **more}


@contextmanager
def started(script: str, env: dict[str, str], **provenance: Any) -> Iterator[subprocess.Popen[str]]:
    """A process of python, which is not waited for when the test has failed."""
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **provenance}
    with subprocess.Popen([sys.executable, "-c", script], env=env, **pipes) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise
