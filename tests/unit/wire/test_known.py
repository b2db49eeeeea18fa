"""What uvicorn is told of a head that we have read."""

from ollama_wrap.wire.head import Head, Reader, Sizes
from ollama_wrap.wire.known import Known


def read(head: bytes) -> Head:
    reader = Reader({})
    assert reader.read(head, Sizes()) is None
    assert reader.head is not None
    return reader.head


def test_our_own_routes_see_the_request_as_it_came() -> None:
    known = Known(read(b"GET /health HTTP/1.0\r\nX-Case: Kept\r\nConnection: keep-alive\r\n\r\n"))

    assert (known.get_method(), known.get_http_version()) == (b"GET", "1.0")
    assert (known.should_keep_alive(), known.should_upgrade()) == (True, False)
    assert known.headers == [(b"x-case", b"Kept"), (b"connection", b"keep-alive")]


def test_bytes_that_no_url_may_have_are_escaped() -> None:
    known = Known(read(b"GET /admin/\xff HTTP/1.1\r\nHost: a\r\n\r\n"))

    assert known.url == b"/admin/%FF"
