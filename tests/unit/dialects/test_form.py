"""Long forms in pieces: the same field as of the whole form."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_wrap.call import Header
from ollama_wrap.dialects.body import form_field
from ollama_wrap.dialects.form import Form

HEADERS: list[Header] = [(b"Content-Type", b"multipart/form-data; boundary=Xy")]


def part(name: str, content: bytes, more: str = "") -> bytes:
    head = f'--Xy\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
    return head.encode() + content + b"\r\n"


def in_pieces(body: bytes, size: int, headers: list[Header] | None = None) -> str | None:
    form = Form(HEADERS if headers is None else headers)
    for at in range(0, len(body), size):
        form.feed(body[at : at + size])
    return form.field(b"model")


AUDIO = part("file", b"RIFF\r\n--X\r\n" * 20_000, '; filename="a.wav"')
MODEL = part("model", b"tiny")


@pytest.mark.parametrize("size", [1, 100, 4096, 65537])
@pytest.mark.parametrize(
    "body",
    [
        AUDIO + MODEL + b"--Xy--\r\n",
        MODEL + AUDIO + b"--Xy--\r\n",
        b"preamble" + AUDIO + MODEL + AUDIO + b"--Xy--\r\n",
        AUDIO + part("model", b"other", '; filename="b"') + MODEL + b"--Xy--",
        AUDIO + b"--Xy--\r\n",
        AUDIO + MODEL,
        part("x", b"") * 70 + MODEL + b"--Xy--\r\n",
    ],
)
def test_pieces_give_the_field_of_the_whole_form(body: bytes, size: int) -> None:
    assert in_pieces(body, size) == form_field(body, HEADERS, b"model")


def test_most_of_a_long_form_is_not_kept() -> None:
    form = Form(HEADERS)
    body = part("file", b"RIFF" * 1_000_000) + MODEL + b"--Xy--\r\n"
    for at in range(0, len(body), 4096):
        form.feed(body[at : at + 4096])

    assert sum(map(len, form._kept)) < len(body) / 10
    assert form.field(b"model") == "tiny"


def test_what_is_no_form_has_no_field() -> None:
    assert in_pieces(MODEL, 100, [(b"Content-Type", b"audio/wav; boundary=Xy")]) is None


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.builds(part, st.sampled_from(["model", "x"]), st.binary(max_size=30)),
            st.builds(lambda count: part("file", b"-" * count), st.integers(0, 200_000)),
        ),
        max_size=6,
    ),
    st.integers(50, 70_000),
)
def test_random_forms_give_the_same_field(parts: list[bytes], size: int) -> None:
    body = b"".join(parts) + b"--Xy--\r\n"

    assert in_pieces(body, size) == form_field(body, HEADERS, b"model")
