"""Very many requests: `python -m tests.chaos.load --port P --count N` on a few connections.

One in ten is left by its client, one in twenty is for a model that fails. Prints how many have
ended once a second, and at the end what came of them as JSON.
"""

import argparse
import asyncio
import json
import random
import sys
from collections import Counter
from contextlib import suppress
from typing import Any

from tests.fakes.raw_http import read_reply, request_bytes

#: connections, and prompts that differ: as many as the cache of answers holds
WORKERS, PROMPTS = 12, 500
LEFT, FAILING = 0.10, 0.05


class Load:
    """The requests of one run; the same seed asks for the same."""

    def __init__(self, port: int, count: int, seed: int) -> None:
        self._port = port
        self._left = count
        self._dice = random.Random(seed)
        self.statuses: Counter[str] = Counter()

    async def run(self) -> None:
        """All of them."""
        telling = asyncio.get_running_loop().create_task(self._tell())
        await asyncio.gather(*(self._work() for _ in range(WORKERS)))
        telling.cancel()

    @property
    def ended(self) -> int:
        return self.statuses.total()

    async def _tell(self) -> None:
        while True:
            print(self.ended, flush=True)
            await asyncio.sleep(1)

    async def _work(self) -> None:
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while self._left > 0:
            self._left -= 1
            streams = streams or await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = streams
            model = "failing" if self._dice.random() < FAILING else "tiny"
            writer.write(self._request(model))
            if self._dice.random() < LEFT:
                await asyncio.sleep(self._dice.uniform(0, 0.01))
                writer.transport.abort()
                streams = None
                self.statuses["left"] += 1
                continue
            reply = await read_reply(reader, "POST")
            # A fake that forgets what it saw knows no failure for a moment.
            good = {200, 500} if model == "failing" else {200}
            right = reply.clean_end and reply.status in good
            self.statuses["right" if right else f"wrong: {reply.status} {reply.error}"] += 1
            if not reply.clean_end:
                streams = None
        if streams is not None:
            with suppress(OSError):
                streams[1].close()

    def _request(self, model: str) -> bytes:
        words = f"question {self._dice.randrange(PROMPTS)}"
        fields: dict[str, Any] = {"model": model, "stream": self._dice.random() < 0.5}
        if self._dice.random() < 0.5:
            return request_bytes(
                "POST", "/api/generate", json.dumps(fields | {"prompt": words}).encode()
            )
        fields["messages"] = [{"role": "user", "content": words}]
        return request_bytes("POST", "/api/chat", json.dumps(fields).encode())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.load", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    load = Load(given.port, given.count, given.seed)
    asyncio.run(load.run())
    json.dump(dict(load.statuses), sys.stdout)


if __name__ == "__main__":
    main()
