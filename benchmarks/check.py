"""Is a candidate a correct proxy? One that buffers or loses bytes is wrong, not fast."""

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from candidates import CANDIDATES
from cells import GENERATE
from machine import resident_kib

if TYPE_CHECKING:
    from bench import Bench

STREAM = '{"model":"llama3.2:1b","prompt":"x"}'
BLOB = 60_000_001
#: what a proxy may buffer for a client that does not read
BUFFERED_KIB = 20_000


def curl(*arguments: str) -> bytes:
    command = ["curl", "-sS", "-m", "20", *arguments]
    return subprocess.run(command, capture_output=True, check=False).stdout


class Check:
    """The checks of one candidate; `faults` are sentences."""

    def __init__(self, bench: "Bench", name: str) -> None:
        self.bench = bench
        self.name = name
        process, self.port = bench.up[name]
        self.pid = process.pid if process else None
        self.upstream = CANDIDATES[name].upstream
        self.url = f"http://127.0.0.1:{self.port}"
        self.faults: list[str] = []

    def run(self) -> list[str]:
        """Exact bytes, both framings of an upload, hang-ups, a client that does not read."""
        self._nothing_runs()
        self._answers()
        self._streams()
        self._uploads()
        self._hang_ups()
        if self.pid is not None:
            self._slow_reader(self.pid)
        return self.faults

    def _want(self, what: str, holds: Callable[[], bool]) -> None:
        try:
            if not holds():
                self.faults.append(what)
        except (OSError, ValueError, KeyError) as error:
            self.faults.append(f"{what}: {error!r}"[:120])

    def _nothing_runs(self) -> None:
        end = time.monotonic() + 20
        while self.bench.streams(self.upstream) and time.monotonic() < end:
            time.sleep(0.5)

    def _answers(self) -> None:
        url = self.url
        version = b'{"version":"0.99.0"}'
        said = curl(f"{url}/api/version")
        # In mode distributed it is a merged answer: stock's, and more.
        merged = CANDIDATES[self.name].node is not None
        self._want("version", lambda: said == version or (merged and said[:19] == version[:19]))
        head = curl("-I", f"{url}/api/version").split(b"\r\n")[0]
        self._want("head", lambda: b"200" in head)
        whole = curl("-d", GENERATE, f"{url}/api/generate")
        self._want("generate", lambda: json.loads(whole)["done"] is True)
        embed = curl("-d", '{"model":"all-minilm","input":"x"}', f"{url}/api/embed")
        self._want("embed", lambda: len(json.loads(embed)["embeddings"][0]) > 1000)

    def _streams(self) -> None:
        paced = curl("-N", "-d", STREAM, f"{self.url}/api/generate?n=7&us=2000").splitlines()
        self._want("stream", lambda: [len(line) for line in paced] == [119] * 7)
        burst = curl("-N", "-d", STREAM, f"{self.url}/api/generate?n=20000").splitlines()
        self._want("burst", lambda: len(burst) == 20000)
        self._want("first line held back", lambda: self._first_line() < 0.5)

    def _first_line(self) -> float:
        """Seconds until the first line of a stream whose second comes after a second."""
        with self._open("n=2&us=1000000") as talk:
            started = time.monotonic()
            seen = b""
            while b'"seq"' not in seen:
                got = talk.recv(4096)
                if not got:
                    raise OSError("closed")
                seen += got
            return time.monotonic() - started

    def _uploads(self) -> None:
        blob = self.bench.build / "blob"
        blob.write_bytes(b"z" * BLOB)
        want = b'{"bytes":%d}' % BLOB
        target = ("-T", str(blob), "-X", "POST", f"{self.url}/api/blobs/sha256:{'0' * 64}")
        self._want("upload", lambda: curl(*target) == want)
        chunked = ("-H", "Transfer-Encoding: chunked")
        self._want("upload chunked", lambda: curl(*chunked, *target) == want)
        blob.unlink()

    def _hang_ups(self) -> None:
        for when, early in (("in the stream", []), ("before the head", ["-w", "1"])):
            load = ["cancel", "-m", str(self.upstream), "-g", str(self.bench.next_id), "-k", "3"]
            found = self.bench.load(self.port, [*load, *early])
            self.bench.next_id += 100
            self._want(
                f"client gone {when}: {found}",
                lambda found=found: found.get("n") == 3 and found["max"] < 1e6,
            )

    def _slow_reader(self, pid: int) -> None:
        before = resident_kib(pid)
        with self._open("n=2000000", receive=65536):
            time.sleep(2)
            grown = resident_kib(pid) - before
        self._want(f"it buffers: +{grown} KiB", lambda: grown < BUFFERED_KIB)
        time.sleep(1)
        self._want("streams left running", lambda: not self.bench.streams(self.upstream))

    @contextlib.contextmanager
    def _open(self, query: str, receive: int | None = None) -> "contextlib.closing[socket.socket]":
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as talk:
            if receive is not None:
                talk.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
            head = f"POST /api/generate?{query} HTTP/1.1\r\nHost: localhost\r\n"
            talk.sendall(f"{head}Content-Length: {len(STREAM)}\r\n\r\n{STREAM}".encode())
            yield talk
