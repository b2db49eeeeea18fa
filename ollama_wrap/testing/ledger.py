"""What the fake saw: every request, how it ended, and what the engine did.

Owns: entries and counts, and the book: a file with a line for each, which outlives a kill.
Must not know: how requests are read or answered.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TextIO

#: Bytes of a body that are kept; of a longer one only size and hash
KEPT = 1 << 20
#: Bytes of a body that are written into a book
BOOKED = 1 << 12


class End(StrEnum):
    """How a request ended."""

    OPEN = "open"
    SERVED = "served"
    CANCELLED = "cancelled"
    CUT = "cut"


@dataclass(slots=True)
class Entry:
    """One request as it came in."""

    number: int
    connection: int
    method: str
    target: str
    version: str
    headers: list[tuple[str, str]]
    model: str = ""
    body: bytes = b""
    body_size: int = 0
    body_sha256: str = ""
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    end: End = End.OPEN
    status: int = 0
    #: Bytes of the answer that were written, head included
    sent: int = 0

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    def header(self, name: str) -> str | None:
        """Return the first value of a header, compared without case."""
        return next((v for n, v in self.headers if n.lower() == name.lower()), None)


@dataclass(slots=True)
class Counts:
    """What the engine did since the start or the last reset."""

    generations_started: int = 0
    generations_finished: int = 0
    generations_cancelled: int = 0
    generations_failed: int = 0
    loads_started: int = 0
    loads_finished: int = 0
    loads_cancelled: int = 0
    unloads: int = 0
    running: int = 0
    max_running: int = 0
    connections_open: int = 0
    connections_total: int = 0


class Ledger:
    """Every request in order of arrival, and the counts."""

    def __init__(self) -> None:
        """Start empty."""
        self.entries: list[Entry] = []
        self.counts = Counts()
        self._changed = asyncio.Event()
        self._book: TextIO | None = None

    def write_to(self, book: TextIO) -> None:
        """Write a line for each request: when its body was read, and when it ended."""
        self._book = book

    def book(self, entry: Entry) -> None:
        """Write down what is known of a request now; nothing without a book."""
        if self._book is None:
            return
        row = {
            "number": entry.number,
            "connection": entry.connection,
            "method": entry.method,
            "target": entry.target,
            "headers": entry.headers,
            "model": entry.model,
            "body": entry.body[:BOOKED].decode("latin-1"),
            "end": entry.end,
            "status": entry.status,
            "sent": entry.sent,
            "at": datetime.now(UTC).timestamp(),
        }
        self._book.write(json.dumps(row) + "\n")
        # A process that is killed writes nothing more.
        self._book.flush()

    def note(self) -> None:
        """Wake whoever waits for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    def to(self, path: str) -> list[Entry]:
        """Return the requests to one path."""
        return [entry for entry in self.entries if entry.path == path]

    async def until(self, holds: Callable[["Ledger"], bool], seconds: float = 5.0) -> None:
        """Return when `holds(self)` does. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while not holds(self):
                await self._changed.wait()

    def started(self) -> None:
        """Count a generation that has its slot."""
        self.counts.generations_started += 1
        self.counts.running += 1
        self.counts.max_running = max(self.counts.max_running, self.counts.running)
        self.note()

    def reset(self) -> None:
        """Forget the past; what is open or running stays counted as such."""
        counts = self.counts
        running, connections = counts.running, counts.connections_open
        self.entries = []
        # The same counts: whoever is still running counts its end in them.
        counts.__init__()  # type: ignore[misc]
        counts.generations_started = counts.running = counts.max_running = running
        counts.connections_open = counts.connections_total = connections

    def as_json(self) -> dict[str, object]:
        """Return everything as plain values; bodies as latin-1 text."""
        rows = []
        for entry in self.entries:
            row = asdict(entry)
            row["body"] = entry.body.decode("latin-1")
            row["at"] = entry.at.isoformat()
            rows.append(row)
        return {"counts": asdict(self.counts), "entries": rows}
