"""A Store that could not be opened: whoever asks it is told why.

So that nothing is acknowledged that would be gone after a restart.
"""

from typing import NoReturn

from ollama_wrap.errors import StoreUnavailable


class UnusableStore:
    """See `base.Store`: every method raises StoreUnavailable."""

    def __init__(self, why: str) -> None:
        self._why = why

    async def get(self, key: str) -> NoReturn:
        self._refuse()

    async def set(self, key: str, value: bytes, ttl: float | None = None) -> NoReturn:
        self._refuse()

    async def delete(self, key: str) -> NoReturn:
        self._refuse()

    async def scan(self, prefix: str) -> NoReturn:
        self._refuse()

    async def add(self, key: str, amount: int = 1, ttl: float | None = None) -> NoReturn:
        self._refuse()

    async def swap(
        self, key: str, old: bytes | None, new: bytes, ttl: float | None = None
    ) -> NoReturn:
        self._refuse()

    async def expire(self, key: str, ttl: float | None) -> NoReturn:
        self._refuse()

    async def close(self) -> None:
        """Nothing is held."""

    def _refuse(self) -> NoReturn:
        raise StoreUnavailable(self._why)
