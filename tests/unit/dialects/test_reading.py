"""What a body asks for on each route. Zero durations and types were seen with Go 1.26."""

from collections.abc import Sequence

import pytest
import zstandard

from ollama_wrap import dialects
from ollama_wrap.call import Header, Kind
from ollama_wrap.dialects import Reading, Route, incoming, route


def read(
    route: Route, body: bytes, headers: Sequence[Header], *, whole: bool = True
) -> Reading | None:
    """What is read of the body here, and of the same body in pieces of several sizes."""
    found = dialects.read(route, body, headers, whole=whole)
    for size in (1, 5, 64, 100_000):
        coming = incoming(route, headers)
        if coming is None:
            break
        for at in range(0, len(body), size):
            for piece in coming.plain(body[at : at + size]):
                coming.feed(piece)
        assert coming.reading(whole=whole) == found
    return found


def reading(path: str, body: bytes, headers: list[Header] | None = None) -> Reading:
    method = "DELETE" if path == "/api/delete" else "POST"
    found = read(route(method, path), body, headers or [])
    assert found is not None
    return found


def test_generate_says_model_and_streams_unless_told_not_to() -> None:
    found = reading("/api/generate", b'{"model":" Tiny ","prompt":"hi"}')

    assert found == Reading(
        " Tiny ", stream=True, kind=Kind.INFER, repeatable=True, follows=" Tiny "
    )


@pytest.mark.parametrize(
    "path,default",
    [
        ("/api/generate", True),
        ("/api/chat", True),
        ("/api/pull", True),
        ("/api/push", True),
        ("/api/create", True),
        ("/api/embed", False),
        ("/v1/chat/completions", False),
        ("/v1/completions", False),
        ("/v1/responses", False),
        ("/v1/messages", False),
    ],
)
def test_stream_is_asked_for_as_each_route_understands_it(path: str, default: bool) -> None:
    said = [reading(path, b'{"model":"m","stream":%s}' % word) for word in (b"true", b"false")]

    assert reading(path, b'{"model":"m"}').stream is default
    assert reading(path, b'{"model":"m","stream":null}').stream is default
    if path != "/api/embed":
        assert [one.stream for one in said] == [True, False]


def test_null_takes_back_a_stream_where_stock_has_a_pointer() -> None:
    body = b'{"model":"m","stream":true,"stream":null}'

    assert reading("/v1/responses", body).stream is False
    assert reading("/v1/chat/completions", body).stream is True


@pytest.mark.parametrize(
    "path,body",
    [
        ("/api/generate", b'{"model":"m"}'),
        ("/api/generate", b'{"model":"m","prompt":"","images":["QQ=="],"keep_alive":5}'),
        ("/api/generate", b'{"model":"m","prompt":null,"keep_alive":null}'),
        ("/api/chat", b'{"model":"m"}'),
        ("/api/chat", b'{"model":"m","messages":[ \n]}'),
        ("/api/chat", b'{"model":"m","messages":null,"keep_alive":-1}'),
        ("/api/embed", b'{"model":"m","input":""}'),
        ("/api/embed", b'{"model":"m","input":[],"keep_alive":0}'),
        ("/api/embeddings", b'{"model":"m","keep_alive":"0s"}'),
        ("/v1/completions", b'{"model":"m","prompt":"","keep_alive":0}'),
    ],
)
def test_call_without_work_only_loads(path: str, body: bytes) -> None:
    found = reading(path, body)

    assert (found.load, found.unload, found.kind, found.repeatable) == (
        True,
        False,
        Kind.INFER,
        True,
    )


@pytest.mark.parametrize(
    "keep",
    ["0", "-0", "0.0", "1e-10", "0e5", '"0"', '"0s"', '"-0"', '"+0h0m"', '"0.1ns"', '"-.5ns"',
     '"0.0000000001s"', '"0.s"', '"\\u0030s"', '"0\u00b5s"', '"0.5ns0.5ns"'],
)  # fmt: skip
def test_keep_alive_of_nothing_unloads(keep: str) -> None:
    found = reading("/api/generate", f'{{"model":"m","keep_alive":{keep}}}'.encode())
    chat = reading("/api/chat", f'{{"model":"m","messages":[],"keep_alive":{keep}}}'.encode())

    for one in (found, chat):
        assert (one.unload, one.load, one.kind, one.repeatable) == (True, False, Kind.SPREAD, False)


@pytest.mark.parametrize(
    "keep",
    ["5", "-1", "1e-9", '"1.s"', "0.5", '"5m"', '"-1m"', '"1.5s"', '"1ns"', '"0h1m"', "null"],
)
def test_keep_alive_of_some_time_does_not_unload(keep: str) -> None:
    found = reading("/api/generate", f'{{"model":"m","keep_alive":{keep}}}'.encode())

    assert (found.unload, found.load) == (False, True)


def test_work_is_done_whatever_keep_alive_says() -> None:
    generate = reading("/api/generate", b'{"model":"m","prompt":" ","keep_alive":0}')
    chat = reading("/api/chat", b'{"model":"m","messages":[{}],"keep_alive":0}')

    assert [(one.load, one.unload, one.kind) for one in (generate, chat)] == [
        (False, False, Kind.INFER)
    ] * 2


@pytest.mark.parametrize(
    "path,body",
    [
        ("/api/generate", b'{"model":7,"prompt":"hi"}'),
        ("/api/generate", b'{"model":["m"]}'),
        ("/api/generate", b'{"model":"m","prompt":7}'),
        ("/api/generate", b'{"model":"m","stream":"yes"}'),
        ("/api/generate", b'{"model":"m","stream":1}'),
        ("/api/generate", b'{"model":"m","context":"x"}'),
        ("/api/generate", b'{"model":"m","keep_alive":""}'),
        ("/api/generate", b'{"model":"m","keep_alive":"abc"}'),
        ("/api/generate", b'{"model":"m","keep_alive":"1"}'),
        ("/api/generate", b'{"model":"m","keep_alive":" 0"}'),
        ("/api/generate", b'{"model":"m","keep_alive":"."}'),
        ("/api/generate", b'{"model":"m","keep_alive":true}'),
        ("/api/generate", b'{"model":"m","keep_alive":1e999}'),
        ("/api/generate", b'{"model":"m",'),
        ("/api/generate", b""),
        ("/api/chat", b'{"model":"m","messages":"hi"}'),
        ("/api/create", b'{"model":"m","files":[]}'),
    ],
)
def test_what_stock_would_refuse_is_left_to_stock(path: str, body: bytes) -> None:
    assert read(route("POST", path), body, []) is None


@pytest.mark.parametrize("context,bound", [("[1,2]", True), ("[]", False), ("null", False)])
def test_context_binds_a_call_to_the_digest_it_came_from(context: str, bound: bool) -> None:
    body = f'{{"model":"m","prompt":"x","context":{context}}}'.encode()

    assert reading("/api/generate", body).bound_to_digest is bound


@pytest.mark.parametrize("path", ["/api/show", "/api/delete", "/api/pull", "/api/push"])
def test_name_stands_in_for_an_empty_model(path: str) -> None:
    bodies = [
        b'{"name":"n"}',
        b'{"model":"","name":"n"}',
        b'{"name":"n","model":null}',
        b'{"name":"n","model":"m"}',
        b"{}",
    ]

    assert [reading(path, body).model for body in bodies] == ["n", "n", "n", "m", None]


def test_name_says_nothing_on_inference_routes() -> None:
    assert reading("/api/generate", b'{"name":"n"}').model is None


def test_copy_follows_its_source() -> None:
    found = reading("/api/copy", b'{"source":"a","Destination":"b"}')

    assert (found.kind, found.model, found.follows, found.sources) == (
        Kind.FOLLOW,
        "a",
        "a",
        ("b",),
    )


def test_create_from_a_model_follows_it() -> None:
    found = reading("/api/create", b'{"model":"m","from":"base","files":{}}')

    assert (found.kind, found.model, found.follows, found.sources) == (
        Kind.FOLLOW,
        "m",
        "base",
        ("base",),
    )
    assert not found.repeatable


@pytest.mark.parametrize(
    "more",
    [
        b'"files":{"a.gguf":"sha256:1"}',
        b'"from":"base","adapters":{"a":"sha256:1"}',
        b'"from":"base","draft_files":{"a":"sha256:1"}',
        b'"from":"base","remote_host":"ollama.com"',
        b'"from":""',
    ],
)
def test_create_that_uses_blobs_or_a_remote_stays_on_this_host(more: bytes) -> None:
    found = reading("/api/create", b'{"model":"m",%s}' % more)

    assert (found.kind, found.follows) == (Kind.ONCE, "m")


def test_model_that_a_case_sensitive_reader_would_see_is_told() -> None:
    found = reading("/v1/chat/completions", b'{"model":"x:cloud","MODEL":"tiny","messages":[{}]}')

    assert (found.model, found.sources) == ("tiny", ("x:cloud",))


def test_zstd_is_read_where_stock_understands_it() -> None:
    body = zstandard.compress(b'{"model":"m","stream":true,"input":"x"}')
    headers = [(b"Content-Encoding", b"zstd")]

    assert reading("/v1/responses", body, headers).model == "m"
    assert read(route("POST", "/api/chat"), body, headers) is None
    assert read(route("POST", "/v1/responses"), b"broken", headers) is None


def test_transcription_has_its_model_in_a_form() -> None:
    headers = [(b"Content-Type", b"multipart/form-data; boundary=X")]
    body = b'--X\r\nContent-Disposition: form-data; name="model"\r\n\r\ntiny\r\n--X--\r\n'
    transcriptions = route("POST", "/v1/audio/transcriptions")

    assert reading("/v1/audio/transcriptions", body, headers).model == "tiny"
    assert read(transcriptions, b"--X--", headers) is None


def test_route_that_reads_no_body_is_read_all_the_same() -> None:
    found = read(route("GET", "/v1/models/tiny"), b"\xff", [])

    assert found == Reading("tiny", stream=False, kind=Kind.FOLLOW, repeatable=True, follows="tiny")


def test_beginning_of_a_body_gives_the_model_but_never_a_load() -> None:
    generate = route("POST", "/api/generate")

    found = read(generate, b'{"model":"m","keep_alive":0,"images":["AAAA', [], whole=False)

    assert found is not None
    assert (found.model, found.load, found.unload, found.kind) == ("m", False, False, Kind.INFER)
    assert read(generate, b'{"images":["AAAA', [], whole=False) is None
