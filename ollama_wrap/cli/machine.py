"""What can be known of the Ollama that has our port: how it was started, and its settings.

Asks systemd, `/proc`, launchctl; whatever they do not say stays unknown. Must not
know what is printed about it.
"""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from pathlib import Path

#: its settings that the sidecar must have too, or that say where it listened
WANTED = ("OLLAMA_HOST", "OLLAMA_ORIGINS", "OLLAMA_NUM_PARALLEL")
#: a listening socket, in the numbers of /proc/net/tcp
_LISTENING = "0A"


class Place(Enum):
    """How it runs, which decides how it is moved."""

    SYSTEMD = 1
    DOCKER = 2
    MACOS = 3
    WINDOWS = 4
    PROCESS = 5


@dataclass(frozen=True, slots=True)
class Found:
    """An Ollama on this machine. `settings` None: they could not be read."""

    place: Place
    settings: Mapping[str, str] | None = None
    pid: int | None = None
    #: it listens on more than loopback
    wide: bool = False


def _said(command: Sequence[str]) -> str:
    """What a command prints; nothing if it is not there, fails or hangs."""
    if (program := shutil.which(command[0])) is None:
        return ""
    try:
        done = subprocess.run(  # noqa: S603  fixed words, no shell
            [program, *command[1:]], capture_output=True, check=False, text=True, timeout=3
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""


@dataclass(frozen=True, slots=True)
class Machine:
    """This machine, or one that a test describes."""

    platform: str = sys.platform
    proc: Path = field(default=Path("/proc"))
    said: Callable[[Sequence[str]], str] = _said

    def ollama_at(self, port: int) -> Found:
        """What listens on `port`, which is known to be an Ollama."""
        if self.platform == "win32":
            return Found(Place.WINDOWS)
        if self.platform == "darwin":
            read = {name: self.said(["launchctl", "getenv", name]).strip() for name in WANTED}
            return Found(Place.MACOS, _only(read))
        return self._published(port) or self._linux(port)

    def _linux(self, port: int) -> Found:
        sockets = dict(self._sockets(port))
        pid, wide = self._owner(set(sockets)), any(sockets.values())
        # `show` needs no rights; a unit that is not there is `inactive`.
        asked = ["systemctl", "show", "ollama.service", "-p", "ActiveState,MainPID,Environment"]
        unit = dict(line.partition("=")[::2] for line in self.said(asked).splitlines())
        # Whose process it is only root can see; the service is the likely one.
        if unit.get("ActiveState") == "active" and pid in {None, int(unit.get("MainPID", "0"))}:
            return Found(Place.SYSTEMD, _only(_words(unit.get("Environment", ""))), pid, wide)
        return Found(Place.PROCESS, self._environ(pid), pid, wide)

    def _published(self, port: int) -> Found | None:
        """Docker's own process for a published port; its command line is open to all."""
        for path in self.proc.glob("[0-9]*/cmdline"):
            words = _bytes(path).decode("utf-8", "replace").split("\0")
            # Options and their values follow each other.
            options = dict(pairwise(words))
            if words[0].endswith("docker-proxy") and options.get("-host-port") == str(port):
                wide = not options.get("-host-ip", "").startswith("127.")
                return Found(Place.DOCKER, wide=wide)
        return None

    def _sockets(self, port: int) -> Iterator[tuple[str, bool]]:
        """Inode of each listening socket on `port`, and whether it is wider than loopback."""
        for table in ("tcp", "tcp6"):
            for line in _bytes(self.proc / "net" / table).decode("ascii", "replace").splitlines():
                fields = line.split()
                # The first line has titles, and others may be of sockets that are no listeners.
                if len(fields) < 10 or fields[3] != _LISTENING:
                    continue
                address, _, number = fields[1].rpartition(":")
                if number == f"{port:04X}":
                    # All zeros: every interface.
                    yield fields[9], not address.strip("0")

    def _owner(self, inodes: set[str]) -> int | None:
        wanted = {f"socket:[{inode}]" for inode in inodes}
        # Files of other users' processes cannot be read, and processes end meanwhile.
        for path in self.proc.glob("[0-9]*/fd/*"):
            try:
                if str(path.readlink()) in wanted:
                    return int(path.parts[-3])
            except OSError:
                continue
        return None

    def _environ(self, pid: int | None) -> Mapping[str, str] | None:
        if pid is None:
            return None
        pairs = _bytes(self.proc / str(pid) / "environ").decode("utf-8", "replace").split("\0")
        return _only(dict(pair.partition("=")[::2] for pair in pairs))


def _words(text: str) -> dict[str, str]:
    """A list of assignments as systemd writes it: quoted as in a shell."""
    try:
        return dict(word.partition("=")[::2] for word in shlex.split(text))
    except ValueError:
        return {}


def _only(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: variables[name] for name in WANTED if variables.get(name)}


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
