"""Where the sidecar is meant to differ from stock: each case by name, in what, and why.

A case that does not differ any more, or differs in anything else, fails: this cannot rot.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Accepted:
    """Why a case may differ; `parts` are the beginnings of the comparer's sentences."""

    reason: str
    parts: frozenset[str]


def _all(reason: str, parts: str, *names: str) -> dict[str, Accepted]:
    return dict.fromkeys(names, Accepted(reason, frozenset(parts.split(", "))))


REFUSED = "a framing fault or more than our caps: refused in every mode"
HOP = "`Connection` belongs to one hop and is not copied"
ASKED_EARLY = "the sidecar asks for the body before stock has said that it does not want it"

WHOLE = "connection kept, status line, headers, framing, body"

ACCEPTED: dict[str, Accepted] = {
    **_all(
        REFUSED,
        WHOLE,
        "method unknown-method",
        "method lower-case-method",
        "target absolute-foreign",
        "http 1.2",
        "bare line feeds",
        "folded header",
        "header large",
        "headers many",
    ),
    **_all(REFUSED, "status line, headers, framing, body", "http2 preface"),
    **_all(REFUSED, "status line, body", "http 9.9", "header with space before colon"),
    **_all(
        HOP,
        "headers",
        "v1 responses stream",
        "v1 responses unknown",
        "v1 messages stream",
        "v1 messages unknown, stream",
    ),
    **_all(
        ASKED_EARLY,
        "interim, connection kept, headers",
        "expect continue on unknown",
        "expect continue, wrong method",
        "blob there, expected",
    ),
}


LONGER = "a version with `distributed` in it is longer"

DISTRIBUTED: dict[str, Accepted] = {
    **ACCEPTED,
    **_all(LONGER, "headers", "head api-version"),
}
"""What differs also where other nodes are known."""


def explained(name: str, found: list[str], table: dict[str, Accepted]) -> bool:
    """Whether a case differs exactly as its table says: in nothing, if it is not there."""
    parts = {sentence.partition(":")[0] for sentence in found}
    return parts == (table[name].parts if name in table else set())
