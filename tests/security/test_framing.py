"""Broken framing before the whole sidecar; row by row it is in tests/wire/test_framing.py."""

from tests.fakes.cluster import cluster
from tests.fakes.heads import ACCEPTED, OTHERWISE, REFUSED
from tests.flow.rows import ALONE
from tests.wire.test_framing import BROKEN

EVERYTHING = {name: raw for name, (raw, _) in (BROKEN | OTHERWISE).items()} | REFUSED | ACCEPTED


async def test_no_broken_request_becomes_a_fault_of_ours() -> None:
    """S01 to S08, S10, S11, S13, S14: no traceback, nothing left open, and nobody else asked."""
    async with cluster(ALONE, level="debug", client={"body_idle": 0.2}) as one:
        for name, raw in EVERYTHING.items():
            async with one.open(raw.replace(b"Host: a", b"Host: 127.0.0.1", 1)) as talk:
                talk.writer.write_eof()
                reply = await talk.rest()
            assert not reply.startswith((b"HTTP/1.1 500", b"HTTP/1.1 502")), name

        assert (await one.chat("big")).status == 200
        assert [line for line in one.lines() if line["level"] == "error"] == []
        assert "Traceback" not in one.written.getvalue()
        assert one.runtime.guard.open == 0
