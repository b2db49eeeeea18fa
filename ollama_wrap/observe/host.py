"""This machine as the program sees it: names, interface addresses, memory, file descriptors.

Owns how each is asked of Linux and macOS, and the two things that the process asks
for itself: more files, and its free memory taken back. What cannot be told is None, or
left out. Asks no name server. Knows nothing of who uses it: whoever wants
fresh answers calls `refresh`, every `REFRESH_AFTER` seconds.
"""

import ctypes
import ipaddress
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

if sys.platform != "win32":
    import resource

REFRESH_AFTER = 5.0

#: where control groups say what a group of processes may have, in versions 2 and 1 of them
_GROUPS = (("", "sys/fs/cgroup", "memory.max"),
           ("memory", "sys/fs/cgroup/memory", "memory.limit_in_bytes"))  # fmt: skip


class Host:
    """Names and addresses of this machine, as they were at the last `refresh`."""

    names: frozenset[str] = frozenset()
    #: the name as the system says it, lower case
    name: str = ""
    #: IPv4 and IPv6 in their shortest spelling, without a scope
    addresses: frozenset[str] = frozenset()

    def __init__(
        self,
        hostname: Callable[[], str] = socket.gethostname,
        addresses: Callable[[], frozenset[str]] | None = None,
    ) -> None:
        self._hostname = hostname
        self._addresses = addresses or interface_addresses
        self.refresh()

    def refresh(self) -> None:
        """Ask the system again; what it does not tell stays as it was."""
        with suppress(OSError):
            full = self._hostname().lower().rstrip(".")
            self.name = full
            short = full.partition(".")[0]
            self.names = frozenset({full, short, f"{short}.local"}) if short else frozenset()
        with suppress(OSError):
            self.addresses = self._addresses()

    def owns(self, host: str) -> bool:
        """Whether a host name or address, brackets and scope allowed, is this machine's."""
        host = host.lower().rstrip(".")
        if host in self.names:
            return True
        address = _address(host.removeprefix("[").removesuffix("]"))
        return address is not None and (address.is_loopback or str(address) in self.addresses)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


class _Interface(ctypes.Structure):
    """The head of C's `struct ifaddrs`, the same on Linux and macOS."""


_Interface._fields_ = [
    ("next", ctypes.POINTER(_Interface)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.c_void_p),
]


def interface_addresses() -> frozenset[str]:
    """Addresses of all interfaces, loopback's included; raises OSError if the system says no."""
    if sys.platform == "win32":
        found = socket.getaddrinfo(socket.gethostname(), None)
        return frozenset(str(_address(str(entry[4][0]))) for entry in found)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.freeifaddrs.argtypes = [ctypes.c_void_p]
    first = ctypes.POINTER(_Interface)()
    if libc.getifaddrs(ctypes.byref(first)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    try:
        return frozenset(_listed(first))
    finally:
        libc.freeifaddrs(first)


def _listed(entry: "ctypes._Pointer[_Interface]") -> Iterator[str]:
    while bool(entry):
        interface = entry.contents
        if interface.address:
            # BSD puts a length byte before the family, Linux makes it two bytes wide.
            head = ctypes.string_at(interface.address, 2)
            family = head[1] if sys.platform == "darwin" else int.from_bytes(head, sys.byteorder)
            if family == socket.AF_INET:
                packed = ctypes.string_at(interface.address + 4, 4)
                yield str(ipaddress.IPv4Address(packed))
            elif family == socket.AF_INET6:
                packed = ctypes.string_at(interface.address + 8, 16)
                yield str(ipaddress.IPv6Address(packed))
        entry = interface.next


def memory() -> int | None:
    """Bytes of memory that this process occupies now (RSS)."""
    if sys.platform == "darwin":
        return _memory_of_macos()
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _memory_of_macos() -> int | None:
    # `struct rusage_info_v0`: 16 bytes of id, then numbers of 8 bytes, the 7th the resident size.
    usage = (ctypes.c_uint64 * 64)()
    try:
        failed = ctypes.CDLL("/usr/lib/libproc.dylib").proc_pid_rusage(
            os.getpid(), 0, ctypes.byref(usage)
        )
    except (OSError, AttributeError):
        return None
    return None if failed else int(usage[8])


def memory_allowed(root: Path = Path("/")) -> int | None:
    """Bytes of memory that our control group, or one above it, lets us have; None: no limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    limits: list[int] = []
    for sort, mount, name in _GROUPS:
        for line in lines:
            # `number:controllers:path`; version 2 names no controllers.
            group = line.partition(":")[2]
            controllers, found, path = group.partition(":")
            if found and sort in controllers.split(","):
                own = Path(path.strip("/"))
                limits += _limits(root / mount, (own, *own.parents), name)
    # Version 1 writes a number that no machine has where nothing is limited.
    return min((one for one in limits if 0 < one < 1 << 60), default=None)


def _limits(mount: Path, groups: Iterable[Path], name: str) -> Iterator[int]:
    for group in groups:
        # In a container the path may be one of the host's, of which only the top is here.
        with suppress(OSError, ValueError):
            yield int((mount / group / name).read_text())


def return_memory() -> None:
    """Give the system back what was freed: an allocator may keep it for ever otherwise."""
    if sys.platform != "linux":
        return
    # Not every C library has it.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def open_files() -> int | None:
    """File descriptors that this process holds."""
    folder = "/dev/fd" if sys.platform == "darwin" else "/proc/self/fd"
    try:
        # Linux since 6.2 says it in one call.
        if sys.platform == "linux" and (count := os.stat(folder).st_size):  # noqa: PTH116 - as below
            return count
        # One of them is the listing's own.
        return len(os.listdir(folder)) - 1  # noqa: PTH208 - counted, never used as paths
    except OSError:
        return None


def allow_files(most: int) -> None:
    """Let this process open up to `most` files, as far as the system lets it: a stream takes two.

    What it has already is never taken away.
    """
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most if hard == resource.RLIM_INFINITY else min(hard, most)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def most_files() -> int | None:
    """How many file descriptors this process may hold; None if that is not limited."""
    if sys.platform == "win32":
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft
