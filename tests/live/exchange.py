"""A client on a plain socket that keeps what every HTTP library hides.

Owns sending raw bytes and reading answers: status line, headers in order and case, framing,
chunk boundaries, whether the body ended as its framing says, whether the connection stayed
usable. Knows nothing of Ollama.
"""

from __future__ import annotations

import select
import socket
from dataclasses import dataclass, field

PATIENCE = 30.0
"""Seconds to wait for any single read."""

Header = tuple[bytes, bytes]
Address = tuple[str, int]

PROBE = b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n"
"""Asked after the last answer: who answers it has kept the connection."""


@dataclass(frozen=True, slots=True)
class Script:
    """What one client does: bytes at once, more after `100 Continue`, then `answers` reads."""

    sent: bytes
    after_continue: bytes = b""
    pieces: tuple[bytes, ...] = ()
    answers: int = 1
    head_only: bool = False
    half_close: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """One reply as it came; `framing` is length, chunked, close or none."""

    status_line: bytes
    headers: tuple[Header, ...]
    framing: str
    chunks: tuple[bytes, ...]
    trailer: bytes
    clean: bool

    @property
    def status(self) -> int:
        return int(self.status_line.split(b" ", 2)[1])

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def header(self, name: bytes) -> bytes:
        """Return the first value of a header in any case, or nothing."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), b"")


@dataclass(frozen=True, slots=True)
class Conversation:
    """All answers of one connection, interim ones first; `kept` says if it could be used again."""

    interim: tuple[bytes, ...]
    answers: tuple[Answer, ...]
    kept: bool


class BrokenOff(Exception):
    """The other side closed or reset the connection."""


@dataclass(slots=True)
class Line:
    """The reading side of one connection."""

    sock: socket.socket
    kept: bytearray = field(default_factory=bytearray)

    def more(self) -> None:
        try:
            got = self.sock.recv(65536)
        except ConnectionError as gone:
            raise BrokenOff from gone
        if not got:
            raise BrokenOff
        self.kept += got

    def until(self, mark: bytes) -> bytes:
        while (end := self.kept.find(mark)) < 0:
            self.more()
        return self.take(end + len(mark))

    def take(self, size: int) -> bytes:
        while len(self.kept) < size:
            self.more()
        taken = bytes(self.kept[:size])
        del self.kept[:size]
        return taken

    def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        while True:
            try:
                self.more()
            except BrokenOff:
                return self.take(len(self.kept))


def converse(address: Address, *scripts: Script) -> Conversation:
    """Play scripts one after the other on one connection and return what was answered.

    Raises BrokenOff if not even the first answer came.
    """
    with socket.create_connection(address, timeout=PATIENCE) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line = Line(sock)
        interim: list[bytes] = []
        answers: list[Answer] = []
        for script in scripts:
            try:
                _play(line, script, interim, answers)
            except BrokenOff:
                if not answers:
                    raise
                break
        open_still = not scripts[-1].half_close and answers[-1].framing != "close"
        kept = open_still and _still_answers(line)
        return Conversation(tuple(interim), tuple(answers), kept)


def _play(line: Line, script: Script, interim: list[bytes], answers: list[Answer]) -> None:
    _send(line.sock, script)
    begun, wanted = len(interim), len(answers) + script.answers
    while len(answers) < wanted:
        head = line.until(b"\r\n\r\n")
        if head.split(b" ", 2)[1].startswith(b"1") and not head.startswith(b"HTTP/1.1 101"):
            interim.append(head)
            _offer(line.sock, script.after_continue)
        else:
            answers.append(_answer(line, head, head_only=script.head_only))
    if len(interim) == begun:
        # Nobody wanted the body; a server that keeps the connection still awaits it.
        _offer(line.sock, script.after_continue)


def _send(sock: socket.socket, script: Script) -> None:
    _offer(sock, script.sent)
    for piece in script.pieces:
        # An answer may come before all is sent: then the rest is nobody's business.
        if select.select([sock], [], [], 0.02)[0]:
            return
        _offer(sock, piece)
    if script.half_close:
        sock.shutdown(socket.SHUT_WR)


def _offer(sock: socket.socket, sent: bytes) -> None:
    """Send, unless the other side has stopped listening: its answer may be there all the same."""
    try:
        sock.sendall(sent)
    except ConnectionError:
        return


def _answer(line: Line, head: bytes, *, head_only: bool) -> Answer:
    status_line, *rows = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    headers = tuple(_header(row) for row in rows)
    named = {key.lower(): value for key, value in headers}
    status = int(status_line.split(b" ", 2)[1])
    if head_only or status in {101, 204, 304}:
        return Answer(status_line, headers, "none", (), b"", clean=True)
    if b"chunked" in named.get(b"transfer-encoding", b""):
        return _chunked(line, status_line, headers)
    if b"content-length" not in named:
        return Answer(status_line, headers, "close", (line.rest(),), b"", clean=True)
    wanted = int(named[b"content-length"])
    try:
        body, clean = line.take(wanted), True
    except BrokenOff:
        body, clean = line.rest(), False
    return Answer(status_line, headers, "length", (body,) if body else (), b"", clean=clean)


def _header(row: bytes) -> Header:
    key, _, value = row.partition(b":")
    return key, value.removeprefix(b" ")


def _chunked(line: Line, status_line: bytes, headers: tuple[Header, ...]) -> Answer:
    chunks: list[bytes] = []
    trailer = b""
    clean = False
    try:
        while size := int(line.until(b"\r\n").split(b";")[0], 16):
            chunks.append(line.take(size))
            line.take(2)
        while (row := line.until(b"\r\n")) != b"\r\n":
            trailer += row
        clean = True
    except BrokenOff:
        pass
    return Answer(status_line, headers, "chunked", tuple(chunks), trailer, clean=clean)


def _still_answers(line: Line) -> bool:
    _offer(line.sock, PROBE)
    try:
        return line.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200")
    except BrokenOff:
        return False
