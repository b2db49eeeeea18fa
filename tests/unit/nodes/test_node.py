from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_wrap.errors import ConfigError
from ollama_wrap.nodes.node import Node, NodeKind, local_node, parse_nodes


@pytest.mark.parametrize(
    "text, address",
    [
        ("gpu1", "http://gpu1:11434"),
        ("GPU1.lan.", "http://gpu1.lan:11434"),
        ("gpu1:8080", "http://gpu1:8080"),
        ("http://gpu1", "http://gpu1:80"),
        ("https://gpu1", "https://gpu1:443"),
        ("HTTP://gpu1:1/", "http://gpu1:1"),
        ("https://gw/ollama/", "https://gw:443/ollama"),
        ("[::1]", "http://[::1]:11434"),
        ("http://[FD00:0::2]:5", "http://[fd00::2]:5"),
        ("10.0.0.7", "http://10.0.0.7:11434"),
    ],
)
def test_url_has_the_defaults_of_ollama_host(text: str, address: str) -> None:
    (node,) = parse_nodes(text)

    assert node.address == address


def test_entry_carries_every_option() -> None:
    (node,) = parse_nodes(
        "r1=http://h1:1/p;kind=openai;weight=50;priority=-2;slots=4;models=Llama*|qwen3;"
        "ctx=8192;header=Authorization: Bearer a:b;header=X-One:1"
    )

    assert node == Node(
        id="r1",
        scheme="http",
        host="h1",
        port=1,
        prefix="/p",
        kind=NodeKind.OPENAI,
        weight=50,
        priority=-2,
        slots=4,
        patterns=("llama*", "qwen3"),
        ctx=8192,
        headers=((b"Authorization", b"Bearer a:b"), (b"X-One", b"1")),
    )


@pytest.mark.parametrize(
    "text",
    [
        '[{"id":"r1","url":"h1","slots":4,"models":["a*","b"],"header":{"X-One":"1"}}]',
        '{"id":"r1","url":"h1","slots":"4","models":"a*|b","header":["X-One:1"]}',
        '["r1=h1;slots=4;models=a*|b;header=X-One:1"]',
        ' [ {"id":"r1","url":"h1","slots":4,"models":"a*|b","header":"X-One: 1"} ] ',
        "r1=h1;slots=4;models=a*|b;;header=X-One:1;",
    ],
)
def test_json_says_the_same_as_the_list(text: str) -> None:
    assert parse_nodes(text) == parse_nodes("r1=h1;slots=4;models=a*|b;header=X-One:1")


def test_nothing_declared_is_no_node() -> None:
    assert parse_nodes(" , ,") == ()


@pytest.mark.parametrize(
    "text, name",
    [
        ("gpu1", "gpu1-11434"),
        ("[fd00::1]:5", "fd00--1-5"),
        ("http://gw/a", "gw-80-a"),
        ("h" * 70, "h" * 64),
    ],
)
def test_default_id_is_host_port_and_path(text: str, name: str) -> None:
    (node,) = parse_nodes(text)

    assert node.id == name


def test_one_id_or_one_address_is_one_node() -> None:
    nodes = parse_nodes("h1;slots=2,r2=h2,r1=http://h1:11434;slots=4;weight=7,r2=h3;priority=1")

    assert [(node.id, node.host, node.slots, node.weight) for node in nodes] == [
        ("r1", "h1", 2, 7),
        ("r2", "h2", None, 100),
    ]
    assert nodes[1].priority == 1


def test_entry_that_joins_two_others_makes_them_one() -> None:
    nodes = parse_nodes("r1=h1,h2;slots=3,h9,r1=h2")

    assert [(node.id, node.host, node.slots) for node in nodes] == [
        ("r1", "h1", 3),
        ("h9-11434", "h9", None),
    ]


@pytest.mark.parametrize(
    "entry, word",
    [
        ("ftp://h", "ftp"),
        ("http://u:p@h", "user and password"),
        ("http://h?x=1", "query"),
        ("http://h/#x", "fragment"),
        ("http://h/a b", "spaces"),
        ("http://h:99999", "no address"),
        ("http://[::zz]", "no address"),
        ("http://", "no host"),
        ("-bad-", "no host"),
        ("all=h", "'all'"),
        ("local=h", "'local'"),
        ("a b=h", "'a b'"),
        ("h;kind=llama", "kind"),
        ("h;weight=0", "weight"),
        ("h;priority=1.5", "priority"),
        ("h;slots=-1", "slots"),
        ("h;slots=" + "9" * 5000, "slots"),
        ("h;ctx=x", "ctx"),
        ("h;slots", "has no value"),
        ("h;slots=1;slots=2", "twice"),
        ("h;colour=red", "colour"),
        ("h;header=Bad Name:x", "Name:value"),
        ("h;header=X-A:a\nb", "Name:value"),
        ("h;header=Content-Length:1", "Content-Length"),
        ('[{"id":"r1"}]', "url"),
        ("[5]", "url"),
        ("[nonsense", "JSON"),
        ("[" * 100_000, "JSON"),
    ],
)
def test_what_cannot_be_used_is_said_with_the_variable(entry: str, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_nodes(entry)

    assert caught.value.problems[0].startswith("OLLAMA_WRAP_NODES: ")
    assert word in caught.value.problems[0]


def test_all_problems_are_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_nodes("ok,ftp://h,fine;slots=x")

    assert [problem.split(":")[1] for problem in caught.value.problems] == [" entry 2", " entry 3"]


def test_secrets_are_in_no_message_and_no_repr() -> None:
    (node,) = parse_nodes("h;header=Authorization:Bearer s3cret")
    with pytest.raises(ConfigError) as caught:
        parse_nodes("h;header=Authorization:s3cret\x00")

    assert "s3cret" not in repr(node)
    assert "s3cret" not in str(caught.value)


def test_local_node_is_marked() -> None:
    node = local_node("tower", "http://127.0.0.1:11436/", 4)

    assert (node.id, node.address, node.slots, node.local) == (
        "tower",
        "http://127.0.0.1:11436",
        4,
        True,
    )


def test_local_address_that_is_none_is_said() -> None:
    with pytest.raises(ConfigError, match="OLLAMA_LOCAL_ADDR"):
        local_node("tower", "ftp://x", None)


@given(st.text(max_size=60))
def test_any_text_is_nodes_or_problems(text: str) -> None:
    nodes: tuple[Node, ...] = ()
    with suppress(ConfigError):
        nodes = parse_nodes(text)

    assert len({node.address for node in nodes}) == len(nodes)
