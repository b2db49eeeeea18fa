"""Network namespaces of a run: a fake on a host of its own, which can vanish.

A namespace belongs to the fake's process and goes with it, and with it both ends of its cable
and its rules, so nothing is left even of a run that was killed. Packets are dropped inside it.
"""

import asyncio
import itertools
import os
import shutil
import subprocess
import sys
from functools import cache

from tests.chaos.programs import Fake

#: put before a command that is to run in a namespace of its own
OWN = ("unshare", "--net")
_cables = itertools.count()


@cache
def lacking() -> str:
    """Why this machine has no namespaces for us; "" if it has."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    tools = [name for name in ("ip", "iptables", "nsenter", "unshare") if not shutil.which(name)]
    if tools:
        return f"not installed: {', '.join(tools)}"
    tried = subprocess.run([*OWN, "true"], capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else f"no network namespaces: {tried.stderr.strip()}"


def cable(fake: Fake) -> str:
    """Join a running fake to us by a cable; returns the fake's address there."""
    # Addresses of a test net, by the run's id, so that two runs do not meet; and never one a
    # second time, for the cable of a host that has gone may still be there.
    last = 4 * (next(_cables) % 64)
    ours, theirs = (f"198.18.{os.getpid() % 250}.{last + end}" for end in (1, 2))
    ends = f"cw{fake.pid}a", f"cw{fake.pid}b"
    _run("ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
    _run("ip", "link", "set", ends[1], "netns", str(fake.pid))
    _run("ip", "addr", "add", f"{ours}/30", "dev", ends[0])
    _run("ip", "link", "set", ends[0], "up")
    _inside(fake, "ip", "addr", "add", f"{theirs}/30", "dev", ends[1])
    _inside(fake, "ip", "link", "set", ends[1], "up")
    return theirs


def vanish(fake: Fake) -> None:
    """Drop everything, both ways: the host is gone."""
    for chain in ("INPUT", "OUTPUT"):
        _inside(fake, "iptables", "-I", chain, "-j", "DROP")


def appear(fake: Fake) -> None:
    """The host is back."""
    _inside(fake, "iptables", "-F")


async def listens(fake: Fake) -> None:
    """A fake that was started under OWN listens, at the address of its cable."""
    await fake.listens()
    # Commands are short, and nothing is timed yet.
    fake.host = await asyncio.to_thread(cable, fake)


def _inside(fake: Fake, *command: str) -> None:
    _run("nsenter", "--net", "--target", str(fake.pid), *command)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
