"""Signal: something changed; whoever wants to know is told, by a call or by waking up.

Owns the list of those who want to know. It must not know what changed.
"""

import asyncio
from collections.abc import Callable
from functools import partial


class Signal:
    """Calls its subscribers and wakes its waiters each time it fires."""

    __slots__ = ("_callbacks",)

    def __init__(self) -> None:
        self._callbacks: dict[Callable[[], None], None] = {}

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Call `callback` at each `fire`, in the order of subscribing; twice is once."""
        self._callbacks[callback] = None

    def unsubscribe(self, callback: Callable[[], None]) -> None:
        """Call it no more; one that is not there is nothing."""
        self._callbacks.pop(callback, None)

    def fire(self) -> None:
        """Call all who are subscribed now; a callback must not raise."""
        if self._callbacks:
            for callback in tuple(self._callbacks):
                callback()

    async def wait(self) -> None:
        """Come back at the next `fire`."""
        future = asyncio.get_running_loop().create_future()
        wake = partial(_wake, future)
        self.subscribe(wake)
        try:
            await future
        finally:
            self.unsubscribe(wake)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
