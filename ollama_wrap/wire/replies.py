"""The heads of a node's replies: read by httptools once, remembered for all that begin alike.

Pure, no I/O. A node says the same head again and again, but for its date and the
length of the body: a head that differs in these alone is not parsed again, and
neither is what clients get of it written again (`Form`).
"""

import re
from collections.abc import Callable, Sequence
from operator import itemgetter

import httptools
from msgspec import Struct

from ollama_wrap.call import Header
from ollama_wrap.errors import BadReply
from ollama_wrap.wire.base import Framing

#: A reply's head may be this long.
MAX_HEAD = 64 * 1024
#: heads that are kept, and the longest of them
KNOWN, KNOWN_SIZE = 256, 2048

_DATE, _LENGTH, _ID = b"Date", b"Content-Length", b"X-Request-ID"
_BEFORE_DATE, _BEFORE_LENGTH = b"\r\nDate: ", b"\r\nContent-Length: "
#: characters of a date as HTTP has it
_DATED = 29
_SANE_DATE = re.compile(rb"[A-Za-z0-9,: ]{29}\Z")
#: digits of a length that fits 64 bits with a sign
_DIGITS = 18
_BODILESS = (204, 304)
#: the least status of a reply that is not interim
_FINAL = 200


class Form(Struct, frozen=True):
    """What clients get of a head, with gaps for what differs from reply to reply.

    `pick` takes what fills the gaps, in their order, from (date, length, id).
    """

    text: bytes
    pick: Callable[[tuple[bytes, bytes, bytes]], object]
    framing: Framing

    def filled(self, date: bytes, digits: bytes, number: str) -> bytes:
        """The head of one answer."""
        return self.text % self.pick((date, digits, number.encode()))


class Head(Struct, eq=False):
    """A head that nodes repeat; it does not change once made.

    `headers` are those of the first such reply, `dated` and `sized` the places of
    the two fields that differ, -1 for none. `length` is that of the body where it
    is the same for all of them: 0 where there is none, -1 where it ends with the connection;
    None where each says its own.
    """

    status: int
    phrase: bytes
    headers: list[Header]
    keep_alive: bool
    chunked: bool
    length: int | None
    dated: int
    sized: int
    #: a stream of lines or of events, by its Content-Type
    streamed: bool
    #: for whoever works something out from the head alone
    notes: dict[object, object]


#: what stands in a head's place until the first has been read
_NONE = Head(0, b"", [], False, False, 0, -1, -1, False, {})


class Replies:
    """Reads the heads that one node sends; the last one's date and length are here."""

    __slots__ = (
        "_after", "_alive", "_before", "_headers", "_known", "_parser", "_phrase", "_sane",
        "date", "digits", "last",
    )  # fmt: skip

    def __init__(self) -> None:
        self.date = self.digits = b""
        #: the last head that may come again, and what stands before and behind the digits of
        #: its length
        self.last = _NONE
        self._before = self._after = b""
        self._known: dict[bytes, Head] = {}
        #: a date that has been looked at; it changes once a second
        self._sane = b""
        self._parser: httptools.HttpResponseParser | None = None
        self._alive: bool | None = None
        self._phrase = b""
        self._headers: list[Header] = []

    def again(self, data: bytes) -> bytes | None:
        """What follows a head that is `last` but for its length; None: it is another."""
        before = self._before
        if not before or not data.startswith(before):
            return None
        at = len(before)
        if not self._after:
            return data[at:]
        end = data.find(b"\r\n", at, at + _DIGITS + 2)
        digits = data[at:end]
        if not (digits.isdigit() and data.startswith(self._after, end)):
            return None
        self.digits = digits
        return data[end + len(self._after) :]

    def read(self, head: bytes) -> Head:
        """Take one whole head, its blank line included. Raises BadReply."""
        key, date, digits = _cut(head)
        self.date, self.digits = date, digits
        self._before = b""
        known = self._find(head, key)
        if known.status >= _FINAL and (known.sized >= 0 or not digits):
            at = head.find(_BEFORE_LENGTH) + len(_BEFORE_LENGTH) if digits else len(head)
            self._before, self._after = head[:at], head[at + len(digits) :]
            self.last = known
        return known

    def _find(self, head: bytes, key: bytes) -> Head:
        date, digits = self.date, self.digits
        known = self._known.get(key)
        if known is not None and (date == self._sane or self._takes(date)):
            alike = (known.dated >= 0) == bool(date)
            if alike and (known.sized < 0 or (digits.isdigit() and len(digits) <= _DIGITS)):
                return known
        known = self._parse(head)
        if len(key) <= KNOWN_SIZE and (not date or self._takes(date)):
            if len(self._known) >= KNOWN:
                self._known.clear()
            self._known[key] = known
        return known

    def _takes(self, date: bytes) -> bool:
        if _SANE_DATE.match(date) is None:
            return False
        self._sane = date
        return True

    def _parse(self, head: bytes) -> Head:
        parser = self._parser = httptools.HttpResponseParser(self)
        self._headers, self._phrase, self._alive = [], b"", None
        try:
            parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            raise BadReply("the node switched protocols") from None
        except httptools.HttpParserError as error:
            raise BadReply(f"the node's reply is not HTTP: {error}") from None
        finally:
            self._parser = None
        if self._alive is None:
            raise BadReply("the node's reply is not HTTP")
        return self._made(parser.get_status_code(), self._headers)

    def _made(self, status: int, headers: list[Header]) -> Head:
        fields = {name.lower(): value for name, value in reversed(headers)}
        coding, announced = fields.get(b"transfer-encoding"), fields.get(b"content-length")
        if coding is not None and coding.strip().lower() != b"chunked":
            raise BadReply("the node's reply is in a coding that nobody here knows")
        if announced is not None and not (announced.isdigit() and len(announced) <= _DIGITS):
            raise BadReply("the node's reply has no sound length")
        # In chunks, whatever length were announced beside them.
        length = int(announced) if announced is not None and coding is None else -1
        sized = _place(headers, (_LENGTH, self.digits))
        return Head(
            status=status,
            phrase=self._phrase,
            headers=headers,
            keep_alive=bool(self._alive),
            chunked=coding is not None,
            # An empty body now says nothing of the next one's.
            length=0 if status in _BODILESS else None if sized >= 0 and length >= 0 else length,
            dated=_place(headers, (_DATE, self.date)),
            sized=sized,
            streamed=fields.get(b"content-type", b"").startswith(
                (b"application/x-ndjson", b"text/event-stream")
            ),
            notes={},
        )

    # httptools calls these

    def on_status(self, status: bytes) -> None:
        """Record the phrase."""
        self._phrase += status

    def on_header(self, name: bytes, value: bytes) -> None:
        """Record a field."""
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Record what the parser forgets when it goes on."""
        self._alive = self._parser is not None and self._parser.should_keep_alive()


def form(head: Head, fields: Sequence[Header], framing: Framing) -> Form | None:
    """What clients get of `head` where `fields` are what passes; None: nothing to remember."""
    gaps = {_ID: 2}
    if head.dated >= 0:
        gaps[_DATE] = 0
    if head.sized >= 0:
        gaps[_LENGTH] = 1
    lines = [_plain(b"HTTP/1.1 %d %b" % (head.status, head.phrase))]
    order: list[int] = []
    for name, value in fields:
        gap = gaps.get(name)
        if gap is not None:
            order.append(gap)
        lines.append(_plain(name) + b": " + (_plain(value) if gap is None else b"%b"))
    if framing is Framing.CHUNKED:
        lines.append(b"Transfer-Encoding: chunked")
    # A field that stands twice has one value only.
    if framing not in {Framing.LENGTH, Framing.CHUNKED} or len(order) != len(set(order)):
        return None
    return Form(b"\r\n".join((*lines, b"\r\n")), itemgetter(*order), framing)


def _plain(text: bytes) -> bytes:
    return text.replace(b"%", b"%%")


def _cut(head: bytes) -> tuple[bytes, bytes, bytes]:
    """A head less its date and the digits of its length, and these two."""
    date = digits = b""
    at = head.find(_BEFORE_DATE)
    if at >= 0:
        begin = at + len(_BEFORE_DATE)
        end = begin + _DATED
        if head[end : end + 2] == b"\r\n":
            date = head[begin:end]
            head = head[:begin] + head[end:]
    at = head.find(_BEFORE_LENGTH)
    if at >= 0:
        begin = at + len(_BEFORE_LENGTH)
        end = head.find(b"\r\n", begin)
        digits = head[begin:end]
        head = head[:begin] + head[end:]
    return head, date, digits


def _place(headers: list[Header], field: Header) -> int:
    return headers.index(field) if field[1] and field in headers else -1
