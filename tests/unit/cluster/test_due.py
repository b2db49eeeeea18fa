from dataclasses import replace

from ollama_wrap.cluster.due import Due
from ollama_wrap.config.groups import Health as Rules
from ollama_wrap.nodes.node import Node, local_node
from ollama_wrap.nodes.sidecar import Sidecar
from ollama_wrap.nodes.upstream import Upstream

OTHER = Node("r1", "http", "10.0.0.7", 11434)
SIDECAR = Sidecar("tower", "boot-1")


def due(node: Node = OTHER) -> tuple[Due, Upstream]:
    upstream = Upstream(node)
    return Due(upstream, Rules()), upstream


def answering(upstream: Upstream) -> None:
    upstream.health = replace(upstream.health, oks=1)


def test_unknown_node_is_asked_for_a_ping() -> None:
    asked, _ = due()

    assert asked.ping(5.0)


def test_plain_node_is_asked_for_a_ping_once_a_minute() -> None:
    asked, _ = due()

    asked.is_plain(5.0)

    assert not asked.ping(64.9)
    assert asked.ping(65.0)


def test_sidecar_is_asked_for_a_ping_each_time() -> None:
    asked, upstream = due()
    asked.is_plain(5.0)

    upstream.sidecar = SIDECAR

    assert asked.ping(6.0)


def test_own_ollama_is_never_asked_for_a_ping() -> None:
    asked, _ = due(local_node("me", "http://127.0.0.1:11436", None))

    assert not asked.ping(5.0)


def test_models_are_due_when_they_are_old_or_wanted() -> None:
    asked, _ = due()

    asked.asked_models(100.0)

    assert not asked.models(109.9)
    assert asked.models(110.0)
    asked.want_models()
    assert asked.models(100.0)


def test_lists_of_sidecars_and_what_is_loaded_here_are_read_more_often() -> None:
    plain, _ = due()
    sidecar, upstream = due()
    local, _ = due(local_node("me", "http://127.0.0.1:11436", None))

    upstream.sidecar = SIDECAR

    assert (plain.list_pause, sidecar.list_pause, local.list_pause) == (10.0, 5.0, 5.0)
    local.asked_models(100.0)
    assert not local.models(105.0)


def test_node_that_does_not_answer_is_not_asked_for_lists() -> None:
    asked, upstream = due()

    assert not asked.lists(unreadable=False)
    answering(upstream)
    assert asked.lists(unreadable=False)


def test_sidecar_without_its_ollama_is_not_asked_for_lists() -> None:
    asked, upstream = due()
    answering(upstream)

    upstream.sidecar = replace(SIDECAR, ollama=False)

    assert not asked.lists(unreadable=False)


def test_sidecar_of_another_protocol_is_not_asked_for_lists() -> None:
    asked, upstream = due()
    answering(upstream)

    upstream.sidecar = replace(SIDECAR, proto=(2, 3))

    assert not asked.lists(unreadable=False)


def test_list_that_could_not_be_read_is_tried_again() -> None:
    asked, _ = due()

    assert asked.lists(unreadable=True)
