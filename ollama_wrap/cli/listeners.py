"""Binds the addresses to listen on, or says in words why one is not to be had.

An address is tried by connecting first, but for sockets that a supervisor passed: those
are bound already. Must not know what will be served there.
"""

import errno
import os
import socket
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ollama_wrap.cli.neighbour import Neighbour, neighbour
from ollama_wrap.config import Listen

#: who listens everywhere is asked on loopback
_OWN_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  where to connect to
#: addresses that a name has and this machine does not, such as ::1 without IPv6
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_REASONS = {
    errno.EADDRINUSE: "another program has it",
    errno.EACCES: "this user may not; ports below 1024 are the administrator's",
    errno.EADDRNOTAVAIL: "no interface of this machine has that address",
    errno.EAFNOSUPPORT: "this machine does not speak that kind of address",
}


class Taken(Exception):
    """An address cannot be listened on; `by` is who answers there, if anybody does."""

    def __init__(self, listen: Listen, text: str, by: Neighbour | None = None) -> None:
        super().__init__(f"cannot listen on {listen}: {text}")
        self.listen = listen
        self.by = by


class Unfit(Exception):
    """A socket that was passed cannot be served on."""


@dataclass(frozen=True, slots=True)
class Bound:
    """Sockets that are bound, and the addresses with their real ports."""

    sockets: tuple[socket.socket, ...]
    listen: tuple[Listen, ...]

    def close(self) -> None:
        for one in self.sockets:
            one.close()


def adopt(files: Iterable[int]) -> Bound:
    """Listen on files that were passed; another program bound them. Raises Unfit."""
    sockets: list[socket.socket] = []
    for number in files:
        try:
            sockets.append(_adopted(number))
        except (OSError, Unfit) as error:
            Bound(tuple(sockets), ()).close()
            raise Unfit(f"the passed file {number} is no socket to serve on: {error}") from error
    return Bound(tuple(sockets), tuple(Listen(*one.getsockname()[:2]) for one in sockets))


def _adopted(number: int) -> socket.socket:
    # It has no business in programs that we start.
    os.set_inheritable(number, False)
    made = socket.socket(fileno=number)
    streams = made.family in (socket.AF_INET, socket.AF_INET6) and made.type == socket.SOCK_STREAM
    if streams and made.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return made
    made.close()
    raise Unfit("TCP sockets that listen are served on, and no others")


def bind(wanted: Sequence[Listen]) -> Bound:
    """Bind every address of every entry. Raises Taken for the first that is not to be had."""
    sockets: list[socket.socket] = []
    listen: list[Listen] = []
    try:
        for one in wanted:
            made = _bind(one)
            sockets += made
            listen.append(Listen(one.host, made[0].getsockname()[1]))
    except Taken:
        Bound(tuple(sockets), ()).close()
        raise
    return Bound(tuple(sockets), tuple(listen))


def _bind(listen: Listen) -> list[socket.socket]:
    """All addresses of a name; those that this machine does not have are left out."""
    made: list[socket.socket] = []
    port, missing = listen.port, None
    for family, address in _addresses(listen):
        if port and (by := neighbour(_OWN_ADDRESS.get(address, address), port)) is not None:
            raise _taken(listen, made, f"there is {by.words}", by)
        try:
            made.append(_socket(family, address, port))
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise _taken(listen, made, _words(error)) from error
            missing = error
        # Port 0: all addresses of a name get the one that the first was given.
        port = port or (made[0].getsockname()[1] if made else 0)
    if not made:
        raise _taken(listen, made, _words(missing) if missing else "the name has no address")
    return made


def _addresses(listen: Listen) -> list[tuple[socket.AddressFamily, str]]:
    try:
        found = socket.getaddrinfo(
            listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise Taken(listen, f"the name does not resolve ({error.strerror})") from error
    return list(dict.fromkeys((family, str(where[0])) for family, _, _, _, where in found))


def _socket(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":
            # SO_REUSEADDR means something else there: a second program could bind it too.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # Both families of a name get a socket of their own.
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((address, port))
    except OSError:
        made.close()
        raise
    return made


def _taken(
    listen: Listen, made: list[socket.socket], text: str, by: Neighbour | None = None
) -> Taken:
    for one in made:
        one.close()
    return Taken(listen, text, by)


def _words(error: OSError) -> str:
    return _REASONS.get(error.errno or 0, error.strerror or str(error))
