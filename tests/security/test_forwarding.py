"""What passes between a client and a node, and what never does; S numbers: docs/threat-model.md."""

import asyncio
import json
from pathlib import Path

import pytest

from ollama_wrap.testing import Entry
from tests.fakes.cluster import Cluster, cluster, host
from tests.fakes.raw_http import Headers
from tests.flow.rows import ALONE, PAIR, SAYS

TOKEN = "correct-horse-battery-staple-0123"
#: models by who answers for them
HOLDERS = pytest.mark.parametrize("model, node", [("other", "local"), ("big", "r1")])
HOP_BY_HOP = (
    *("Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "Proxy-Authenticate"),
    *("TE", "Trailer", "Upgrade"),
)


def the_chat(one: Cluster, node: str) -> Entry:
    (seen,) = one[node].ledger.to("/api/chat")
    return seen


def named(headers: Headers, *names: str) -> list[str]:
    wanted = {name.lower() for name in names}
    return [name for name, _ in headers if name.lower() in wanted]


@HOLDERS
async def test_client_can_have_hop_fields_dropped_and_no_others(model: str, node: str) -> None:
    """S21."""
    async with cluster(ALONE) as one:
        names = "close, x-auth, authorization, host, content-type, content-length"
        fields = [("Connection", names), ("X-Auth", "1"), ("X-Other", "2")]
        fields += [("Authorization", "Bearer theirs"), ("Content-Type", "application/json")]

        reply = await one.chat(model, fields)

        seen = the_chat(one, node)
        assert reply.status == 200
        assert (seen.header("x-auth"), seen.header("x-other")) == (None, "2")
        assert seen.header("content-type") == "application/json"
        assert seen.header("content-length") == str(seen.body_size)
        assert seen.header("host")
        # Another node is not shown what the client says to its own Ollama.
        assert seen.header("authorization") == ("Bearer theirs" if node == "local" else None)


@HOLDERS
async def test_hop_by_hop_fields_pass_in_neither_direction(model: str, node: str) -> None:
    """S22."""
    async with cluster(ALONE) as one:
        both = [(name, "x") for name in HOP_BY_HOP]
        connection = ("Connection", "keep-alive, x-hop")
        one[node].on(route="/api/chat", headers=(*both, ("X-Hop", "1"), ("X-End", "1")))

        reply = await one.chat(model, [*both, connection])

        assert named(the_chat(one, node).headers, *HOP_BY_HOP) == []
        assert named(reply.headers, *HOP_BY_HOP) == []
        assert reply.header("x-end") == "1"


async def test_mark_of_a_sidecar_only_restricts() -> None:
    """S23, S31: row 41 of the failure table."""
    async with cluster(PAIR) as one:
        marks = [("X-Ollama-Hop", "1"), ("X-Ollama-Node", "r1"), ("X-Ollama-Digest", "0" * 12)]
        marks += [("X-Ollama-Priority", "high"), ("Via", "1.1 somebody")]

        hop = await one.chat("big", marks)
        hosted = await one.chat("other", marks)

        assert (hop.status, hosted.status) == (404, 200)
        assert one.asked("/api/chat") == {"local": 2}
        for seen in one.local.ledger.to("/api/chat"):
            ours = [name for name, _ in seen.headers if name.lower().startswith("x-ollama-")]
            assert ours == []


@pytest.mark.parametrize("via", ["1.1 tower", "1.1 a, 1.1 tower", "HTTP/1.1 tower (x)"])
async def test_call_that_was_here_before_goes_nowhere(via: str) -> None:
    """S23, S31: row 41 of the failure table."""
    async with cluster(PAIR) as one:
        reply = await one.chat("big", [("Via", via)])

        assert (reply.status, one.asked("/api/chat")) == (508, {})


async def test_two_sidecars_that_name_each_other_pass_a_call_on_once() -> None:
    """S31: each believes that the other has the model, and neither has."""
    reached: list[int] = []

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not reached:
            writer.close()
            return
        there, back = await asyncio.open_connection("127.0.0.1", reached[0])
        try:
            await asyncio.gather(pump(reader, back), pump(there, writer))
        finally:
            back.close()
            writer.close()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(65_536):
                writer.write(piece)
        except OSError:
            pass
        finally:
            writer.close()

    door = await asyncio.start_server(forward, "127.0.0.1", 0)
    port = door.sockets[0].getsockname()[1]
    async with (
        door,
        cluster(nodes={"text": f"b=http://127.0.0.1:{port}"}, check=False) as a,
        cluster(nodes={"text": f"a={a.url}"}, server={"node_id": "attic"}, check=False) as b,
    ):
        reached.append(b.port)
        await a.until(lambda: a.upstream("b").sidecar is not None)
        await b.until(lambda: b.upstream("a").sidecar is not None)

        forced = [("X-Ollama-Force-Distributed", "b")]
        reply = await a.chat("nobody-has-it", forced)

        assert reply.status == 404
        assert (a.asked("/api/chat"), b.asked("/api/chat")) == ({}, {"local": 1})
        door.close()


async def test_node_that_is_ourselves_is_left_out() -> None:
    """S31."""
    async with cluster(ALONE) as one:
        one.sidecar("r1", boot=one.runtime.boot)
        await one.until(lambda: one.runtime.fleets.current.find("r1") is None)

        assert (await one.chat("other")).status == 200
        assert len(one.lines("this node is this sidecar itself; it is left out")) == 1


async def test_cookie_of_one_client_never_reaches_another() -> None:
    """S25: neither by the line nor by questions of our own."""
    async with cluster(ALONE) as one:
        for fake in (one.local, one["r1"]):
            cookie = ("Set-Cookie", "who=alice; Path=/")
            fake.on(headers=(cookie,), times=0)

        alice = await one.chat("big")
        await one.chat("big", [("X-User", "bob")])
        await one.get("/api/tags")
        before = len(one["r1"].ledger.entries)
        await one.until(lambda: len(one["r1"].ledger.entries) > before + 2)

        assert alice.header("set-cookie") == "who=alice; Path=/"
        for fake in (one.local, one["r1"]):
            assert [entry.target for entry in fake.ledger.entries if entry.header("cookie")] == []


async def test_proxies_and_passwords_of_the_environment_are_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """S26."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login evil password leaked\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://user:leaked@127.0.0.1:1")
    async with cluster(ALONE) as one:
        assert [(await one.chat(model)).status for model in ("other", "big")] == [200, 200]

        # Its probes were answered, or the cluster would not have begun.
        for fake in (one.local, one["r1"]):
            fields = [name.lower() for entry in fake.ledger.entries for name, _ in entry.headers]
            assert "authorization" not in fields
            assert "proxy-authorization" not in fields


@HOLDERS
async def test_redirect_is_the_client_s_to_follow(model: str, node: str) -> None:
    """S27: in answers, and in what we ask ourselves."""
    async with cluster(ALONE | {"inside": host("secret", entry="models=none")}) as one:
        inside = f"{one['inside'].url}/api/latest/meta-data"
        away = {"status": 302, "headers": (("Location", inside),), "times": 0}
        one[node].on(route="/api/chat", **away)

        reply = await one.chat(model)
        one[node].on(route="/api/version", **away)
        before = len(one[node].ledger.to("/api/version"))
        await one.until(lambda: len(one[node].ledger.to("/api/version")) > before + 1)

        assert (reply.status, reply.header("location")) == (302, inside)
        assert one["inside"].ledger.to("/api/latest/meta-data") == []


@HOLDERS
@pytest.mark.parametrize("name", ["Authorization", "X-API-Key", "x-api-key"])
async def test_token_of_ours_reaches_no_node(model: str, node: str, name: str) -> None:
    """S28: nor the log."""
    async with cluster(ALONE, admin_token=TOKEN, level="debug") as one:
        for value in (f"Bearer {TOKEN}", TOKEN):
            assert (await one.chat(model, [(name, value)])).status == 200
        await one.ended(2)

        for entry in one[node].ledger.entries:
            assert TOKEN not in repr(entry.headers)
        assert TOKEN not in one.written.getvalue()


async def test_cloud_model_carries_nothing_out_of_the_house() -> None:
    """S29."""
    fields = [("Cookie", "session=1"), ("X-API-Key", TOKEN), ("X-Ollama-Priority", "low")]
    fields += [("X-Ollama-Force-Distributed", "r1"), ("X-Dry-Run", "no"), ("X-Theirs", "1")]
    async with cluster(ALONE, admin_token=TOKEN) as one:
        body = json.dumps({"model": "big:cloud", "messages": SAYS}).encode()
        await one.ask("POST", "/api/chat", body, [*fields, ("Authorization", "Bearer theirs")])

        assert one.asked("/api/chat") == {"local": 1}
        seen = the_chat(one, "local")
        names = {name.lower() for name, _ in seen.headers}
        assert names == {"host", "content-length", "x-theirs", "authorization"}
        assert seen.header("authorization") == "Bearer theirs"


@pytest.mark.parametrize(
    "told, trusted, seen",
    [
        ("127.0.0.1", (), "127.0.0.1"),
        ("203.0.113.9", (), "127.0.0.1"),
        ("203.0.113.9", ("127.0.0.1",), "203.0.113.9"),
        ("203.0.113.9, 198.51.100.7", ("127.0.0.1",), "198.51.100.7"),
    ],
)
async def test_forwarded_address_is_believed_of_listed_proxies_alone(
    told: str, trusted: tuple[str, ...], seen: str
) -> None:
    """S24."""
    async with cluster(admin_token=TOKEN, trusted_proxies=trusted) as one:
        one.local.on(route="/api/chat", delay=0.3)
        waiting = asyncio.ensure_future(one.chat("tiny", [("X-Forwarded-For", told)]))
        await one.until(lambda: one.asked("/api/chat") == {"local": 1})

        token = [("Authorization", f"Bearer {TOKEN}")]
        reply = await one.get("/api/distributed/requests", token)

        (row,) = json.loads(reply.body)["requests"]
        assert row["caller"] == seen
        await waiting


@pytest.mark.parametrize("trusted", [(), ("127.0.0.1",)])
async def test_forwarded_address_gives_no_right(trusted: tuple[str, ...]) -> None:
    """S24: who says to speak for loopback is not on loopback."""
    names = ("X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "X-Real-IP", "CF-Connecting-IP")
    async with cluster(protect="management", trusted_proxies=trusted) as one:
        for name in names:
            refused = await one.post("/api/pull", [(name, "127.0.0.1")], model="tiny")
            assert refused.status == 403, name
        allowed = await one.post("/api/pull", model="tiny")

        assert (allowed.status, one.asked("/api/pull")) == (200, {"local": 1})


@pytest.mark.parametrize(
    "trusted, last", [((), 429), (("127.0.0.1",), 401)], ids=["unlisted", "listed"]
)
async def test_forwarded_address_gives_no_fresh_guesses(
    trusted: tuple[str, ...], last: int
) -> None:
    """S24: guesses of one address are counted together, whatever it says to be."""
    async with cluster(admin_token=TOKEN, trusted_proxies=trusted) as one:
        replies = [
            await one.get(
                "/admin/stats",
                [("Authorization", "Bearer wrong"), ("X-Forwarded-For", f"203.0.113.{number}")],
            )
            for number in range(11)
        ]

        assert [reply.status for reply in replies] == [401] * 10 + [last]
