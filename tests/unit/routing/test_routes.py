"""The two forms of OLLAMA_WRAP_ROUTES, and which names a rule means."""

import pytest

from ollama_wrap.errors import ConfigError
from ollama_wrap.routing.routes import Endpoint, Rule, parse_routes

JSON = """{
    "gpt-4*": [
        {"node": "r1", "weight": 70, "priority": -1, "model": "llama3.2:1b"},
        "local"
    ],
    "x": "r2;priority=3",
    "y": {"node": "r3"}
}"""
OTHER = Endpoint("r1", 70, -1, "llama3.2:1b")


@pytest.mark.parametrize(
    "text, rules",
    [
        ("", ()),
        (" , ", ()),
        ("gpt*=r1", (Rule("gpt*", (Endpoint("r1"),)),)),
        (
            " GPT-4* = r1; model=llama3.2:1b ;weight=70;priority=-1 | local ",
            (Rule("gpt-4*", (OTHER, Endpoint("local"))),),
        ),
        (
            "a=r1,b/*:7b=r2;weight=1",
            (Rule("a", (Endpoint("r1"),)), Rule("b/*:7b", (Endpoint("r2", 1),))),
        ),
        ("[ab]?=r1", (Rule("[ab]?", (Endpoint("r1"),)),)),
        (
            JSON,
            (
                Rule("gpt-4*", (OTHER, Endpoint("local"))),
                Rule("x", (Endpoint("r2", priority=3),)),
                Rule("y", (Endpoint("r3"),)),
            ),
        ),
        ("{}", ()),
    ],
)
def test_both_forms_are_read(text: str, rules: tuple[Rule, ...]) -> None:
    assert parse_routes(text) == rules


@pytest.mark.parametrize(
    "text, said",
    [
        ("gpt*", "'gpt*': write pattern=node"),
        ("=r1", "'': write pattern=node"),
        ("a=|", "'a': write pattern=node"),
        ('{"a": []}', "'a': write pattern=node"),
        ("a=r 1", "node 'r 1': write the id of a node, or local"),
        ("a=remote", "node 'remote': write the id"),
        ("a=;weight=3", "node '': write the id"),
        ("a=r1;weight", "'weight' has no value"),
        ("a=r1;weight=0", "weight '0': write a whole number, 1 to 10000"),
        ("a=r1;weight=1.5", "weight '1.5': write a whole number"),
        ("a=r1;priority=high", "priority 'high': write a whole number"),
        ("a=r1;weight=1;weight=2", "a name is there twice"),
        ("a=r1;wieght=1", "'wieght' is no option; there are model, node, priority, weight"),
        ("a=r1;model=a b", "model 'a b': no node takes this for a name"),
        ("a=r1;model=", "model '': no node takes this for a name"),
        ("a=r1;model=gpt-oss:120b-cloud", "a cloud model is asked for under its own name"),
        ('{"a": "r1"', "starts like JSON and is none"),
        ('{"a": "r1", "a": "r2"}', "a name is there twice"),
        ('{"a": 7}', "write a node id, or an object with node"),
        ('{"a": [{"weight": 7}]}', "write a node id, or an object with node"),
        ('{"a": {"node": []}}', "node '[]': write the id"),
    ],
)
def test_what_cannot_be_meant_is_said_with_its_place(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_routes(text)

    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith("OLLAMA_WRAP_ROUTES: ")
    assert said in caught.value.problems[0]


def test_all_problems_are_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_routes("a=r1;weight=0|r2;x=1,b,c=r3")

    assert [one.partition(": ")[2][:15] for one in caught.value.problems] == [
        "'a', endpoint 1",
        "'a', endpoint 2",
        "'b': write patt",
    ]


@pytest.mark.parametrize(
    "pattern, name, holds",
    [
        ("gpt-4*", "gpt-4o", True),
        ("gpt-4*", "gpt-3", False),
        ("*", "anything:7b", True),
        ("[gm]*:1b", "mistral:1b", True),
        ("llama", "llama:latest", False),
    ],
)
def test_pattern_means_whole_names(pattern: str, name: str, holds: bool) -> None:
    assert Rule(pattern, ()).matches((name,)) is holds
