from typing import Any

import pytest

from ollama_wrap.config import Settings, compare
from ollama_wrap.config.values import Listen


def settings(**given: Any) -> Settings:
    return Settings.model_validate(given)


def test_nothing_that_differs_is_nothing_that_changes() -> None:
    one = settings(cache={"ttl": "5m"})

    anew = compare(one, one, settings(cache={"ttl": 300}))

    assert (anew.changed, anew.restart) == ((), ())
    assert anew.settings == one


def test_changes_are_named_as_yaml_names_them_and_hold() -> None:
    new = settings(cache={"ttl": 7}, nodes={"text": "r1=http://h"}, protect="all")

    anew = compare(settings(), settings(), new)

    assert anew.changed == ("protect", "nodes", "cache.ttl")
    assert anew.settings == anew.read == new


def test_what_needs_a_restart_stays_and_is_named_each_time() -> None:
    started = settings(server={"listen": "127.0.0.1:1", "drain": 1})
    new = settings(server={"listen": "127.0.0.1:2", "drain": 2}, state={"dir": "elsewhere"})

    first = compare(started, started, new)
    second = compare(first.read, first.settings, new)

    assert first.restart == second.restart == ("server.listen", "state.dir")
    assert (first.changed, second.changed) == (("server.drain",), ())
    assert first.settings.server.listen == (Listen("127.0.0.1", 1),)
    assert first.settings.server.drain == 2


def test_what_is_back_as_it_was_waits_for_nothing() -> None:
    started = settings(server={"node_id": "a"})
    first = compare(started, started, settings(server={"node_id": "b"}))

    assert compare(first.read, first.settings, started).restart == ()


def test_what_runs_otherwise_than_it_was_read_stays_until_a_file_changes_it() -> None:
    read = settings(server={"listen": "127.0.0.1:0"})
    running = settings(server={"listen": "127.0.0.1:4711"}, local={"address": "http://typed:1"})

    same = compare(read, running, read.model_copy(update={"protect": "all"}))
    other = compare(read, running, settings(local={"address": "http://written:2"}))

    assert same.settings.local.address == "http://typed:1"
    assert same.settings.server.listen == (Listen("127.0.0.1", 4711),)
    assert other.settings.local.address == "http://written:2"


def test_warnings_are_those_of_the_last_reading() -> None:
    new = settings().model_copy(update={"warnings": ("short",), "faults": ("broken",)})

    anew = compare(settings(), settings(), new)

    assert (anew.settings.warnings, anew.read.faults) == (("short",), ("broken",))


@pytest.mark.parametrize("token", ["a" * 40, None])
def test_secrets_are_compared_and_never_named(token: str | None) -> None:
    anew = compare(settings(admin_token="b" * 40), settings(), settings(admin_token=token))

    assert anew.changed == ("admin_token",)
