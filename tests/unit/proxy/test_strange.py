"""Errors that nobody knows are said, seldom, and without what they say."""

import contextlib
import io
import json
from typing import Any

from ollama_wrap.observe import log
from ollama_wrap.proxy.strange import Strange
from tests.fakes.clock import FakeClock


def said(strange: Strange, *texts: bytes) -> list[dict[str, Any]]:
    """What is logged of these texts, all of node r1."""
    before = log._output.level, log._output.format
    with contextlib.redirect_stderr(io.StringIO()) as written:
        log.configure("info", "json")
        for text in texts:
            strange.say("r1", text)
        log.flush()
    log._output.level, log._output.format = before
    return [json.loads(line) for line in written.getvalue().splitlines()]


def test_text_is_said_once_an_hour_and_never_repeated() -> None:
    clock = FakeClock()
    strange = Strange(clock)

    first = said(strange, b'{"error":"my secret"}', b'{"error":"MY secret"}', b'{"error":"other"}')
    clock.advance(3599.0)
    soon = said(strange, b'{"error":"my secret"}')
    clock.advance(1.0)
    later = said(strange, b'{"error":"my secret"}')

    assert [(line["node"], line["bytes"]) for line in first] == [("r1", 21), ("r1", 17)]
    assert soon == []
    assert [line["digest"] for line in later] == [first[0]["digest"]]
    assert "secret" not in json.dumps(first + later).lower()


def test_text_that_differs_each_time_does_not_fill_the_log() -> None:
    clock = FakeClock()
    strange = Strange(clock)
    texts = [b"no %d" % number for number in range(500)]

    assert len(said(strange, *texts)) == 64
    clock.advance(3600.0)
    assert len(said(strange, *texts)) == 64
