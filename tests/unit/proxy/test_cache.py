"""What is kept, and who gets it."""

from collections.abc import Sequence

import pytest

from ollama_wrap.call import Call, Header, Kind, Mode
from ollama_wrap.config.groups import Cache as Rules
from ollama_wrap.dialects import Ending
from ollama_wrap.nodes.fleet import Fleets
from ollama_wrap.nodes.inventory import Inventory, Model
from ollama_wrap.observe.pressure import Measure, Strain
from ollama_wrap.proxy.cache import Cache
from ollama_wrap.proxy.tap import Tap
from ollama_wrap.reply import Origin, Reply
from tests.fakes.clock import FakeClock
from tests.fakes.nodes import WALL, fleet, key, upstream

NDJSON: Header = (b"Content-Type", b"application/x-ndjson")
JSON: Header = (b"Content-Type", b"application/json; charset=utf-8")
DONE = Ending(done=True, failed=False)
LINES = b'{"response":"a","done":false}\n{"response":"b","done":true}\n'


class Kitchen:
    """A cache with everything it needs; `local` and `r1` are in its fleet."""

    def __init__(self, **rules: object) -> None:
        self.clock = FakeClock()
        self.local = upstream("local", {"m": "d1"})
        self.other = upstream("r1=h1", {"m": "d1"})
        self.running = 0
        self.told: list[tuple[int, int]] = []
        self.strain = Strain()
        self.cache = Cache(
            Rules(**rules),  # type: ignore[arg-type]
            Fleets(fleet(self.local, self.other)),
            self.clock,
            lambda: self.running,
            lambda entries, size: self.told.append((entries, size)),
            self.strain,
        )

    def store(
        self,
        call: Call,
        body: bytes = LINES,
        headers: Sequence[Header] = (NDJSON,),
        origin: Origin | None = None,
        ending: Ending = DONE,
    ) -> None:
        tap = Tap(self.clock.monotonic, self.cache.keep(call))
        tap.feed([body])
        reply = Reply(200, list(headers), b"", origin=origin or Origin(node="tower", local=True))
        self.cache.store(call, reply, tap, ending)

    def found(self, call: Call) -> bytes | None:
        entry = self.cache.find(call)
        return None if entry is None else entry.body


def chat(body: bytes | None = b'{"model":"m"}', **changes: object) -> Call:
    made = Call("id", "POST", b"/api/generate", "/api/generate", [], mode=Mode.DISTRIBUTED)
    made = made.altered(kind=Kind.INFER, operation="generate", model="m", caller="ann")
    return made.altered(body=body, stream=True, **changes)


@pytest.fixture
def kitchen() -> Kitchen:
    return Kitchen()


def test_answer_is_found_by_the_same_call(kitchen: Kitchen) -> None:
    kitchen.store(chat())

    assert kitchen.found(chat()) == LINES


@pytest.mark.parametrize(
    "other",
    [
        chat(caller="bob"),
        chat(operation="chat"),
        chat(model="n"),
        chat(b'{"model":"m","prompt":"x"}'),
        chat(b'{"model":"m","model":"m"}'),
        chat(no_store=True),
        chat(hop=True),
        chat(mode=Mode.LOCAL),
        chat(kind=Kind.SPREAD),
    ],
    ids=["caller", "route", "model", "body", "twice", "no-store", "hop", "local", "unload"],
)
def test_another_call_does_not_find_it(kitchen: Kitchen, other: Call) -> None:
    kitchen.store(chat())

    assert kitchen.found(other) is None


@pytest.mark.parametrize(
    "call",
    [
        chat(model=None),
        chat(body=None),
        chat(no_store=True),
        chat(hop=True),
        chat(mode=Mode.LOCAL),
        chat(kind=Kind.LIST),
    ],
)
def test_nothing_is_collected_of_calls_whose_answers_are_not_kept(
    kitchen: Kitchen, call: Call
) -> None:
    assert kitchen.cache.keep(call) == 0


def test_answers_are_collected_up_to_the_largest_entry(kitchen: Kitchen) -> None:
    assert kitchen.cache.keep(chat()) == 256 * 1024
    assert kitchen.cache.keep(chat(mode=Mode.STANDALONE)) == 256 * 1024


def test_nothing_is_kept_while_memory_is_short_and_what_was_goes(kitchen: Kitchen) -> None:
    kitchen.store(chat())
    kitchen.cache.settle()
    kitchen.strain.put(frozenset({Measure.SPARE}))

    given, kept = kitchen.found(chat()), kitchen.cache.keep(chat())
    kitchen.strain.put(frozenset())

    assert (given, kept) == (None, 0)
    assert kitchen.told[-1] == (0, 0)
    assert kitchen.found(chat()) is None
    assert kitchen.cache.keep(chat())


def test_stub_of_a_remote_model_is_not_kept(kitchen: Kitchen) -> None:
    stub = Model("m", key("m"), "d1", remote=True)
    kitchen.local.inventory = Inventory().listed([stub], WALL)

    kitchen.store(chat())

    kitchen.cache.settle()
    assert kitchen.told[-1][0] == 0


@pytest.mark.parametrize("model", ["m:cloud", "m:7b-cloud", "../x"])
def test_what_is_no_model_of_a_node_is_not_kept(kitchen: Kitchen, model: str) -> None:
    kitchen.store(chat(model=model))

    kitchen.cache.settle()
    assert kitchen.told[-1][0] == 0


def test_nothing_is_kept_where_it_is_switched_off() -> None:
    kitchen = Kitchen(enabled=False)
    kitchen.store(chat())

    assert kitchen.cache.keep(chat()) == 0
    assert kitchen.found(chat()) is None


def test_shape_of_the_request_does_not_matter_to_native_routes(kitchen: Kitchen) -> None:
    kitchen.store(chat(b'{"model":"m","stream":true}'))

    whole = kitchen.cache.find(chat(b'{"Stream":false,"model":"m"}').altered(stream=False))

    assert whole is not None
    assert whole.body == b'{"response":"ab","done":true}'
    assert whole.headers == (JSON,)
    assert not whole.streamed


def test_object_is_given_as_lines_to_who_asks_for_them(kitchen: Kitchen) -> None:
    body = b'{"response":"ab","done":true}'
    kitchen.store(chat(b'{"model":"m","stream":false}').altered(stream=False), body, [JSON])

    lines = kitchen.cache.find(chat())

    assert lines is not None
    assert lines.body == b'{"response":"ab","done":false}\n{"response":"","done":true}\n'
    assert lines.headers == (NDJSON,)
    assert lines.streamed


def test_other_routes_find_an_answer_in_its_own_shape_only(kitchen: Kitchen) -> None:
    events: Header = (b"content-type", b"text/event-stream")
    asked = chat(b'{"model":"m","stream":true}', operation="chat-completions")
    kitchen.store(asked, b"data: [DONE]\n\n", [events, (b"Date", b"today")])

    found = kitchen.cache.find(asked)
    whole = chat(b'{"model":"m"}', operation="chat-completions").altered(stream=False)

    assert found is not None
    assert found.streamed
    assert found.headers == (events,)
    assert kitchen.found(whole) is None


def test_body_that_cannot_be_taken_apart_is_compared_whole(kitchen: Kitchen) -> None:
    twice = b'{"model":"m","options":{"a":1},"options":{"b":1}}'
    kitchen.store(chat(twice))

    assert kitchen.found(chat(twice)) == LINES
    assert kitchen.found(chat(b'{"model":"m","options":{"b":1}}')) is None


def test_members_are_not_mixed_up_with_their_neighbours(kitchen: Kitchen) -> None:
    kitchen.store(chat(b'{"a":"b","c":1}'))

    assert kitchen.found(chat(b'{"a":"b,c","c":1}')) is None


def test_answer_of_another_digest_is_found_while_a_node_has_it(kitchen: Kitchen) -> None:
    kitchen.other.inventory = Inventory().listed([Model("m", key("m"), "d2")], WALL)
    kitchen.store(chat(), origin=Origin(node="r1"))

    before = kitchen.found(chat())
    kitchen.other.inventory = Inventory().listed([Model("m", key("m"), "d3")], WALL)

    assert before == LINES
    assert kitchen.found(chat()) is None


def test_answer_of_a_node_that_has_left_is_found_where_no_digest_is_known(
    kitchen: Kitchen,
) -> None:
    kitchen.local.inventory = kitchen.other.inventory = Inventory()
    kitchen.store(chat(), origin=Origin(node="gone"))

    assert kitchen.found(chat()) == LINES


def test_answer_is_good_for_a_while(kitchen: Kitchen) -> None:
    kitchen.store(chat())
    kitchen.clock.advance(299)
    late = kitchen.found(chat())
    kitchen.clock.advance(2)

    assert late == LINES
    assert kitchen.found(chat()) is None


def test_entry_knows_when_it_came(kitchen: Kitchen) -> None:
    came = kitchen.clock.monotonic()
    kitchen.store(chat())
    kitchen.clock.advance(7)

    entry = kitchen.cache.find(chat())

    assert entry is not None
    assert entry.at == came


def test_answer_to_a_very_long_request_is_not_kept(kitchen: Kitchen) -> None:
    long = chat(b'{"model":"m","images":["' + b"A" * 1_048_576 + b'"]}')

    assert kitchen.cache.keep(long) == 0
    assert kitchen.cache.keep(chat()) > 0


@pytest.mark.parametrize(
    "body,headers,origin,ending",
    [
        (b"x" * 300_000, [NDJSON], None, DONE),
        (LINES, [NDJSON, (b"Content-Encoding", b"gzip")], None, DONE),
        (LINES, [NDJSON], Origin(age=3), DONE),
        (LINES, [NDJSON], None, Ending(done=False, failed=False)),
        (LINES, [NDJSON], None, Ending(done=True, failed=True)),
        (b'{"response":"","done":true,"done_reason":"load"}', [JSON], None, DONE),
    ],
    ids=["long", "coded", "kept before", "no end", "failed", "load"],
)
def test_some_answers_are_not_kept(
    kitchen: Kitchen, body: bytes, headers: list[Header], origin: Origin | None, ending: Ending
) -> None:
    kitchen.store(chat(), body, headers, origin, ending)

    assert kitchen.found(chat()) is None


def test_answer_that_was_not_collected_is_not_kept_as_empty(kitchen: Kitchen) -> None:
    tap = Tap(kitchen.clock.monotonic, 0)

    kitchen.cache.store(chat(), Reply(200, [NDJSON]), tap, DONE)

    assert kitchen.found(chat()) is None


def test_oldest_answers_make_room() -> None:
    kitchen = Kitchen(max_bytes="10000B", max_entry="4000B")
    calls = [chat(b'{"n":%d}' % number) for number in range(3)]
    for call in calls:
        kitchen.store(call, b"x" * 3000)

    assert [kitchen.found(call) is not None for call in calls] == [False, True, True]
    assert kitchen.told[-1] == (2, 2 * (3000 + 1024))


def test_answers_that_are_too_old_are_let_go_of_though_nobody_asks(kitchen: Kitchen) -> None:
    for number in range(3):
        kitchen.store(chat(b'{"n":%d}' % number))
        kitchen.clock.advance(140)
    kitchen.cache.settle()
    kitchen.clock.advance(100)

    kitchen.cache.settle()

    assert kitchen.told[-1][0] == 1


def test_one_that_came_anew_does_not_hide_those_that_are_too_old(kitchen: Kitchen) -> None:
    again, once = chat(b'{"n":0}'), chat(b'{"n":1}')
    for call, wait in ((again, 0), (once, 200), (again, 150)):
        kitchen.store(call)
        kitchen.cache.settle()
        kitchen.clock.advance(wait)

    kitchen.cache.settle()

    assert kitchen.told[-1][0] == 1
    assert kitchen.found(again) == LINES


def test_answer_that_came_anew_is_not_the_first_to_make_room() -> None:
    kitchen = Kitchen(max_bytes="10000B", max_entry="4000B")
    calls = [chat(b'{"n":%d}' % number) for number in range(2)]
    for call in (*calls, calls[0]):
        kitchen.store(call, b"x" * 3000)
        kitchen.cache.settle()
    kitchen.clock.advance(100)  # some are looked at for their age meanwhile
    kitchen.cache.settle()

    kitchen.store(chat(b'{"n":9}'), b"x" * 3000)

    assert [kitchen.found(call) is not None for call in calls] == [True, False]


def test_what_is_being_collected_is_counted_in() -> None:
    kitchen = Kitchen(max_bytes="10000B", max_entry="5000B")
    kitchen.store(chat(b'{"n":1}'), b"x" * 3000)
    kitchen.running = 1

    kitchen.store(chat(b'{"n":2}'), b"x" * 3000)

    assert kitchen.found(chat(b'{"n":1}')) is None
    assert kitchen.found(chat(b'{"n":2}')) is not None


def test_nothing_is_collected_where_running_calls_could_fill_it_all() -> None:
    kitchen = Kitchen(max_bytes="10000B", max_entry="5000B")
    kitchen.running = 3

    assert kitchen.cache.keep(chat()) == 0


def test_keys_do_not_show_what_was_asked(kitchen: Kitchen) -> None:
    twin = Kitchen()
    for one in (kitchen, twin):
        one.store(chat())
        one.cache.settle()

    (mine,), (theirs,) = (list(one.cache._entries) for one in (kitchen, twin))

    assert mine != theirs


def test_answer_that_has_no_room_beside_what_is_collected_drives_nothing_out() -> None:
    kitchen = Kitchen(max_bytes="10000B", max_entry="5000B")
    kitchen.store(chat(b'{"n":1}'), b"x" * 3000)
    kitchen.cache.settle()
    kitchen.running = 2

    kitchen.store(chat(b'{"n":2}'), b"x" * 3000)

    assert kitchen.found(chat(b'{"n":1}')) is not None
    assert kitchen.found(chat(b'{"n":2}')) is None
