"""Header fields on their way through; S numbers are rows of the security checklist."""

import pytest

from ollama_wrap.call import Call, Header, Mode
from ollama_wrap.proxy import headers
from ollama_wrap.reply import Origin
from ollama_wrap.wire.base import Framing

HOST = b"node:11434"
TOKEN = b"Bearer correct-horse"


def call(*fields: tuple[bytes, bytes], keep_host: bool = True, length: int = 0) -> Call:
    known: dict[bytes, bytes] = {}
    for name, value in fields:
        known.setdefault(name.lower(), value)
    made = Call("id", "POST", b"/api/chat", "/api/chat", list(fields), known)
    made.keep_host, made.length = keep_host, length
    return made


def sent(asked: Call, *, local: bool = True, extra: tuple[Header, ...] = ()) -> list[Header]:
    before, after = headers.request(asked, lambda value: value == TOKEN, HOST, extra, local=local)
    return before + after


def names(fields: list[Header]) -> list[bytes]:
    return [name.lower() for name, _ in fields]


# ---------------------------------------------------------------- to a node


def test_name_case_order_and_repeats_stay() -> None:
    fields = ((b"HOST", b"localhost"), (b"x-A", b"1"), (b"X-a", b"2"), (b"Accept", b""))

    assert sent(call(*fields)) == list(fields)


@pytest.mark.parametrize(
    "name",
    [
        *("Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authorization"),
        *("Proxy-Authenticate", "TE", "Trailer", "Transfer-Encoding", "Upgrade", "Expect"),
    ],
)
@pytest.mark.parametrize("local", [True, False])
def test_hop_by_hop_fields_go_nowhere(name: str, local: bool) -> None:
    """S15, S16, S22."""
    assert names(sent(call((name.encode(), b"x")), local=local)) in ([], [b"host"])


@pytest.mark.parametrize(
    "connection",
    [(b"x-auth",), (b"close, X-Auth",), (b"keep-alive", b"x-auth"), (b" x-auth ,close",)],
)
def test_fields_that_connection_names_are_dropped(connection: tuple[bytes, ...]) -> None:
    """S21."""
    fields = [(b"X-Auth", b"1"), (b"X-Other", b"2"), *((b"Connection", one) for one in connection)]

    assert sent(call(*fields)) == [(b"X-Other", b"2")]


def test_client_cannot_have_these_dropped() -> None:
    """S21."""
    fields = [(b"Host", b"localhost"), (b"Authorization", b"theirs"), (b"Content-Type", b"a/b")]
    connection = (b"Connection", b"close, host, authorization, content-type, content-length")

    assert sent(call(*fields, connection)) == fields


@pytest.mark.parametrize(
    "name",
    [
        *("Hop", "Node", "Route", "Force-Local", "Force-Distributed", "Target-Nodes"),
        *("Priority", "Timeout-Ms", "Digest"),
    ],
)
def test_fields_of_ours_go_nowhere(name: str) -> None:
    """S23, S29."""
    asked = call((f"x-OLLAMA-{name}".encode(), b"1"), (b"X-Dry-Run", b"true"))

    assert sent(asked) == []
    assert sent(asked, local=False) == [(b"Host", HOST)]


def test_cookies_go_nowhere() -> None:
    """S29: stock would carry them to the cloud."""
    assert sent(call((b"Cookie", b"a=b"))) == []


@pytest.mark.parametrize("name", [b"Authorization", b"X-API-Key", b"x-api-key"])
@pytest.mark.parametrize("local", [True, False])
def test_token_of_ours_goes_nowhere(name: bytes, local: bool) -> None:
    """S28; a second field of the name is looked at too."""
    asked = call((name, b"theirs"), (name, TOKEN))

    assert TOKEN not in [value for _, value in sent(asked, local=local)]


def test_credentials_of_a_client_go_to_its_own_ollama_alone() -> None:
    asked = call((b"Authorization", b"theirs"), (b"X-API-Key", b"key"))

    assert names(sent(asked)) == [b"authorization", b"x-api-key"]
    assert names(sent(asked, local=False)) == [b"host", b"x-api-key"]


@pytest.mark.parametrize("local, keep", [(True, False), (False, True), (False, False)])
def test_node_is_called_by_its_own_name(local: bool, keep: bool) -> None:
    fields = ((b"Host", b"other"), (b"Origin", b"http://x"), (b"A", b"1"))
    asked = call(*fields, keep_host=keep)

    assert sent(asked, local=local) == [(b"Host", HOST), (b"A", b"1")]


def test_fields_of_a_node_and_our_marks_come_last() -> None:
    marks = ((b"Authorization", b"the node's"), (b"Via", b"1.1 tower"))

    fields = sent(call((b"Authorization", b"theirs"), (b"A", b"1")), local=False, extra=marks)

    assert fields == [(b"Host", HOST), (b"A", b"1"), *marks]


@pytest.mark.parametrize(
    "announced, sized, size, line",
    [
        (0, None, 0, b""),
        (0, (1, b"content-length"), 0, b"content-length: 0\r\n"),
        (9, (1, b"CONTENT-Length"), 9, b"CONTENT-Length: 9\r\n"),
        (-1, None, 9, b"Content-Length: 9\r\n"),
        (-1, None, 0, b"Content-Length: 0\r\n"),
        (-1, None, None, b"Transfer-Encoding: chunked\r\n"),
    ],
)
def test_body_is_framed_once(
    announced: int, sized: tuple[int, bytes] | None, size: int | None, line: bytes
) -> None:
    asked = call(length=announced)
    asked.sized = sized

    assert headers.framing(asked, size) == line


def test_length_keeps_its_place() -> None:
    asked = call((b"A", b"1"), (b"B", b"2"))
    asked.sized = (1, b"Content-Length")

    before, after = headers.request(asked, lambda _: False, HOST, (), local=True)

    assert (before, after) == ([(b"A", b"1")], [(b"B", b"2")])


# ---------------------------------------------------------------- from a node


def passed(*fields: Header, local: bool = True, status: int = 200) -> list[Header]:
    return headers.reply(status, fields, bare=False, local=local)[0]


def test_reply_keeps_name_case_order_and_repeats() -> None:
    fields = [(b"DATE", b"x"), (b"set-Cookie", b"a"), (b"Set-cookie", b"b")]

    assert passed(*fields) == fields


def test_hop_by_hop_fields_of_a_reply_are_ours_to_say() -> None:
    """S22."""
    fields = [(b"Keep-Alive", b"5"), (b"Proxy-Authenticate", b"x"), (b"Trailer", b"x")]
    connection = [(b"X-Hop", b"1"), (b"Connection", b"close"), (b"Connection", b"x-hop")]

    assert passed(*fields, *connection, (b"A", b"1")) == [(b"A", b"1")]


def test_other_nodes_do_not_speak_for_us() -> None:
    fields = [(b"Access-Control-Allow-Origin", b"*"), (b"X-Ollama-Node", b"x")]
    fields += [(b"x-request-id", b"theirs")]

    assert passed(*fields, local=False) == []
    assert passed(*fields) == fields


@pytest.mark.parametrize(
    "field, status, bare, framing",
    [
        ((b"Content-Length", b"3"), 200, False, Framing.LENGTH),
        ((b"transfer-encoding", b"chunked"), 200, False, Framing.CHUNKED),
        ((b"A", b"1"), 200, False, Framing.CLOSE),
        ((b"Content-Length", b"3"), 200, True, Framing.NONE),
        ((b"A", b"1"), 204, False, Framing.NONE),
        ((b"Content-Length", b"3"), 304, False, Framing.NONE),
    ],
)
def test_framing_of_a_reply_is_its_node_s(
    field: Header, status: int, bare: bool, framing: Framing
) -> None:
    assert headers.reply(status, [field], bare=bare, local=True)[1] is framing


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("value, wanted", [(b"close", True), (b"Close", True), (b"x", False)])
def test_end_of_our_own_ollama_s_connection_is_the_client_s(
    value: bytes, wanted: bool, local: bool
) -> None:
    fields = [(b"CONNECTION", value)]

    assert headers.reply(200, fields, bare=False, local=local)[2] is (wanted and local)


@pytest.mark.parametrize(
    "location, wanted",
    [
        (b"/api/tags", b"/ollama/api/tags"),
        (b"//elsewhere/x", b"//elsewhere/x"),
        (b"http://elsewhere", b"http://elsewhere"),
        (b"tags", b"tags"),
    ],
)
def test_prefix_comes_back_before_a_path(location: bytes, wanted: bytes) -> None:
    fields = headers.prefixed([(b"LOCATION", location), (b"A", b"/x")], b"/ollama")

    assert fields == [(b"LOCATION", wanted), (b"A", b"/x")]


# ---------------------------------------------------------------- what we say


def said(origin: Origin, mode: Mode = Mode.DISTRIBUTED, standalone: str | None = None) -> str:
    asked = call()
    asked.mode = mode
    return headers.joined(headers.ours(asked, origin, standalone)).decode()


def test_plain_answer_says_mode_node_and_id() -> None:
    assert said(Origin(node="r1", reason="busy"), Mode.LOCAL) == (
        "X-Ollama-Distributed: false\r\nX-Ollama-Mode: local\r\nX-Ollama-Node: r1\r\n"
        "X-Request-ID: id\r\n"
    )


def test_answer_of_another_node_says_why() -> None:
    text = said(
        Origin(
            node="r2",
            reason="policy",
            fallback="connect",
            attempts=(("r1", "connect"), ("r2", "served")),
        )
    )

    assert "X-Ollama-Distributed: true\r\n" in text
    assert "X-Ollama-Route-Reason: policy\r\n" in text
    assert "X-Ollama-Fallback: true\r\nX-Ollama-Fallback-Reason: connect\r\n" in text
    assert "X-Ollama-Attempts: r1:connect, r2:served\r\n" in text


def test_single_attempt_is_not_worth_a_word() -> None:
    assert "Attempts" not in said(Origin(node="r1", attempts=(("r1", "served"),)))


def test_kept_answer_says_its_age() -> None:
    text = said(Origin(age=0), Mode.STANDALONE, "admin")

    assert "X-Ollama-Cached-Response: true\r\nAge: 0\r\n" in text
    assert "X-Ollama-Standalone-Reason: admin\r\n" in text
    assert "X-Ollama-Node" not in text


def test_cors_fields_stand_where_stock_writes_them() -> None:
    answer = [(b"Content-Type", b"text/plain"), (b"Date", b"today"), (b"Content-Length", b"0")]
    cors = [(b"Access-Control-Allow-Origin", b"*"), (b"Vary", b"Origin")]

    merged = headers.with_cors(answer, cors)

    assert merged == [cors[0], answer[0], cors[1], answer[1], answer[2]]
    assert headers.with_cors(answer, []) == answer


def test_reason_of_standalone_is_not_said_of_a_call_that_came_before_it() -> None:
    text = said(Origin(node="r1"), Mode.DISTRIBUTED, "no-node-answers")

    assert "Standalone" not in text
