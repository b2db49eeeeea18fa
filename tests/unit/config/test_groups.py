from ollama_wrap.config import rows
from ollama_wrap.config.groups import Client, Group, Health, Queue, Upstream


def test_every_setting_says_what_it_is() -> None:
    silent = [
        row.path for group in Group.__subclasses__() for row in rows(group) if not row.sentence
    ]

    assert silent == []


def test_idle_connections_to_nodes_end_before_a_sidecar_there_ends_them() -> None:
    assert Upstream().keepalive_expiry < Client().keepalive_idle


def test_no_timer_ends_an_answer_unless_it_is_set() -> None:
    upstream = Upstream()

    assert (upstream.first_byte, upstream.first_byte_once) == (0, 0)
    assert (upstream.idle, upstream.total) == (0, 0)


def test_limits_are_the_ones_that_were_agreed() -> None:
    assert Queue().hold == 60
    assert (Health().fall, Health().rise, Health().timeout) == (3, 2, 1.5)
    assert (Upstream().replay_limit, Upstream().replay_total) == (32 * 2**20, 256 * 2**20)
