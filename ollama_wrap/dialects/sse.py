"""What the two event-stream dialects share. It must not know either of them."""

import re

_prompt = re.compile(rb'"(?:prompt|input)_tokens":\s*(\d{1,18})')
_answer = re.compile(rb'"(?:completion|output)_tokens":\s*(\d{1,18})')


def gap(tail: bytes) -> bytes:
    """What has to be sent after `tail` before a new event can begin."""
    end = tail[-4:].replace(b"\r\n", b"\n")
    if not end or end.endswith(b"\n\n"):
        return b""
    return b"\n" if end.endswith(b"\n") else b"\n\n"


def usage(tail: bytes) -> tuple[int | None, int | None]:
    """Tokens of prompt and answer in the last `usage` object of `tail`."""
    # Strings inside JSON escape their quotes: this key is never part of an answer's text.
    last = tail[tail.rfind(b'"usage":') :] if b'"usage":' in tail else b""
    return _number(_prompt, last), _number(_answer, last)


def _number(pattern: re.Pattern[bytes], text: bytes) -> int | None:
    match = pattern.search(text)
    return int(match[1]) if match else None
