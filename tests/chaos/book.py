"""What the fakes saw, read from their books, and what must hold of it after every run.

Each client request has one outcome; generations that were started have ended; none goes on
without its client; what changes a node was done once; no request came over two hops; no byte
of one client went to another (`traffic` sees that: every answer begins with its own mark).
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.chaos.programs import Fake
from tests.chaos.traffic import Told

#: what changes a node: never to be done twice for one request
ONCE = ("/api/pull", "/api/push", "/api/create", "/api/copy", "/api/delete")
#: seconds that a generation may go on without its client
ORPHANED = 1.0
#: of a request that a client of the run sent
_MARK = re.compile(r"#q[0-9]+")


@dataclass(slots=True)
class Seen:
    """One request at one node. Times are those of the wall; `ended` is None while it is open."""

    node: str
    number: int
    connection: int
    method: str
    path: str
    model: str
    mark: str
    hop: str
    body: str
    came: float
    ended: float | None = None
    end: str = "open"
    status: int = 0
    #: bytes of the answer
    sent: int = 0


def read(fakes: Iterable[Fake]) -> list[Seen]:
    """Every request at these fakes, in the order of their coming."""
    seen: list[Seen] = []
    for fake in fakes:
        if fake.book.exists():
            seen += _read(fake)
    return sorted(seen, key=lambda one: one.came)


def _read(fake: Fake) -> list[Seen]:
    made: list[Seen] = []
    open_: dict[tuple[int, int], Seen] = {}
    for line in fake.book.read_text("utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # it was killed while it wrote
        # A fake that was started again counts from one again.
        key = (row["number"], row["connection"])
        if row["end"] == "open" or key not in open_:
            headers = {name.lower(): value for name, value in row["headers"]}
            marks = _MARK.findall(row["body"])
            path = row["target"].partition("?")[0]
            one = Seen(
                fake.name,
                row["number"],
                row["connection"],
                row["method"],
                path,
                row["model"],
                marks[-1] if marks else "",
                headers.get("x-ollama-hop", ""),
                row["body"],
                row["at"],
            )
            made.append(one)
            open_[key] = one
        if row["end"] != "open":
            one = open_.pop(key)
            one.ended, one.end = row["at"], row["end"]
            one.status, one.sent = row["status"], row["sent"]
    return made


def problems(seen: Sequence[Seen], told: Sequence[Told], thawed: Mapping[str, float]) -> list[str]:
    """The invariants that do not hold, in words. Nodes that were killed may leave requests open.

    `thawed`: when a node last went on after it had been frozen; till then it could end nothing.
    """
    return [*_of_nodes(seen), *_of_clients(seen, told, thawed)]


def _of_nodes(seen: Sequence[Seen]) -> list[str]:
    found = [f"{one.node} got {one.path} with hop {one.hop}" for one in seen if one.hop > "1"]
    changes = Counter((one.path, one.body) for one in seen if one.path in ONCE)
    return found + [f"{path} was done {n} times" for (path, _), n in changes.items() if n > 1]


def _of_clients(
    seen: Sequence[Seen], told: Sequence[Told], thawed: Mapping[str, float]
) -> list[str]:
    by_mark: dict[str, list[Seen]] = defaultdict(list)
    for one in seen:
        if one.mark:
            by_mark[one.mark].append(one)
    found = []
    for asked in told:
        at = by_mark.get(asked.mark, [])
        if not asked.ended:
            found.append(f"{asked.mark} never ended")
        if asked.good and not at and asked.reply.header("x-ollama-cached-response") is None:
            found.append(f"{asked.mark} was answered, and no node was asked")
        if asked.good and sum((other.end, other.status) == ("served", 200) for other in at) > 1:
            found.append(f"{asked.mark} was served more than once")
        for other in at:
            left = max(asked.ended, thawed.get(other.node, 0.0))
            if other.ended is not None and other.ended > left + ORPHANED:
                found.append(f"{asked.mark} went on at {other.node} without its client")
    strays = by_mark.keys() - {one.mark for one in told}
    return found + [f"nobody asked for {mark}" for mark in sorted(strays)]


async def unbalanced(fakes: Iterable[Fake]) -> list[str]:
    """Fakes, alive, whose generations were not as many finished, cancelled or failed as started."""
    found = []
    for fake in fakes:
        if not fake.running:
            continue
        counts = await fake.counts()
        ends = ("finished", "cancelled", "failed")
        ended = sum(counts[f"generations_{end}"] for end in ends)
        if counts["generations_started"] != ended or counts["running"]:
            found.append(f"{fake.name}: {counts}")
    return found
