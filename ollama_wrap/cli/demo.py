"""`ollama-wrap demo`: three fake Ollamas and a sidecar; traffic, and two deaths.

Owns the story: what is asked, what must come of it, and the words for it. The fakes
are programs of their own; no Ollama is needed and none is touched.
"""

import json
import sys
import threading
from argparse import ArgumentParser, Namespace
from collections.abc import Container
from http.client import HTTPException
from itertools import islice

from ollama_wrap.cli.exits import Exit
from ollama_wrap.cli.stage import PATIENCE, Answer, Failed, Program, Stage, lines
from ollama_wrap.lifecycle import interruptible

#: who has which models
_HOSTS = {
    "desk": "llama3.2",
    "tower": "llama3.2,qwen3",
    "attic": "qwen3,gemma3",
}
_SHOWN = (
    "X-Ollama-Node",
    "X-Ollama-Route-Reason",
    "X-Ollama-Fallback",
    "X-Ollama-Fallback-Reason",
    "X-Ollama-Attempts",
    "X-Ollama-Cached-Response",
)
#: seconds between two tokens of a fake
_PACE = "0.1"


def add(parser: ArgumentParser) -> None:
    """See `cli.Command`."""
    parser.add_argument(
        "--once", action="store_true", help="end when the story is told, on a terminal too"
    )


def run(options: Namespace) -> int:
    """See `cli.Command`."""
    stays = not options.once and sys.stdin is not None and sys.stdin.isatty()
    with interruptible(), Stage() as stage:
        return _show(_Story(stage), stays=stays)


def _show(story: "_Story", *, stays: bool) -> int:
    try:
        story.tell()
    except (Failed, OSError, HTTPException) as error:
        _say(f"\nThis did not happen as told: {error}")
        if story.sidecar is not None:
            _say("The last lines of the sidecar:", *story.sidecar.written[-15:])
        return Exit.FAILED
    story.invite()
    if stays:
        _say("\nIt goes on until Ctrl-C.")
        threading.Event().wait()
    return Exit.STOPPED


class _Story:
    """The steps, in order; each raises Failed when something else happens than it says."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.sidecar: Program | None = None
        self.hosts: dict[str, Program] = {}
        self._step = 0

    def tell(self) -> None:
        """All of it."""
        self._start()
        self._list()
        self._routed()
        self._busy()
        self._dies_early()
        self._comes_back()
        self._dies_late()
        self._away()

    def invite(self) -> None:
        """What to look at."""
        url = f"http://127.0.0.1:{self.stage.port}"
        body = '{"model":"llama3.2","messages":[{"role":"user","content":"hi"}]}'
        _say(
            "\nLook at it yourself:",
            f"  curl {url}/api/tags",
            f"  curl {url}/api/distributed/status",
            f"  curl {url}/api/distributed/nodes",
            f"  curl {url}/api/distributed/models",
            f"  curl -i {url}/api/chat -d '{body}'",
            f"  curl -H 'X-Dry-Run: true' {url}/api/chat -d '{body}'",
        )

    def _start(self) -> None:
        self._title("Three fake Ollamas, and a sidecar before the first")
        self.hosts = {name: self._fake(name) for name in _HOSTS}
        for name, models in _HOSTS.items():
            _say(
                f"  {name}: port {self.hosts[name].listens()}, with {models.replace(',', ' and ')}"
            )
        address = {name: f"http://127.0.0.1:{one.port}" for name, one in self.hosts.items()}
        nodes = f"tower={address['tower']};slots=1,attic={address['attic']};slots=1;priority=1"
        self.sidecar = self.stage.sidecar(
            {
                "OLLAMA_LOCAL_ADDR": address["desk"],
                "OLLAMA_WRAP_NODE_ID": "desk",
                "OLLAMA_WRAP_NODES": nodes,
                "OLLAMA_WRAP_HEALTH_INTERVAL": "500ms",
            }
        )
        _say(f"  sidecar: port {self.stage.port}, told of tower and attic by OLLAMA_WRAP_NODES")
        self.stage.until("/api/tags", "gemma3")

    def _list(self) -> None:
        self._title("One list for all")
        answer = self.stage.get("/api/tags")
        _say("  GET /api/tags")
        for entry in json.loads("".join(answer.lines))["models"]:
            _say(f"  {entry['name']:18} on {', '.join(entry.get('nodes', ['?']))}")
        _expect(len(json.loads(answer.lines[0])["models"]) == 3, "three models are listed")

    def _routed(self) -> None:
        self._title("A model that is here stays here")
        self._answered("llama3.2", self.stage.chat("llama3.2"), node="desk", reason="local")
        self._title("A model that only attic has is asked there")
        self._answered("gemma3", self.stage.chat("gemma3"), node="attic", reason="model-missing")

    def _busy(self) -> None:
        self._title("Two at a time: the second goes where there is room")
        first = self.stage.later("llama3.2")
        self.stage.pause(0.2)
        second = self.stage.chat("llama3.2")
        self._answered("llama3.2", first.answer(), node="desk", reason="local")
        self._answered("llama3.2", second, node="tower", reason="busy")

    def _dies_early(self) -> None:
        self._title("tower dies (kill -9) before the first byte of its answer: attic answers")
        slow = {"route": "/api/chat", "model": "qwen3", "prompt_delay": 10}
        self.stage.tell(self.hosts["tower"], slow)
        asked = self.stage.later("qwen3")
        self._until("tower", "in_flight", {"1"})
        self.hosts["tower"].kill()
        answer = asked.answer()
        self._answered("qwen3", answer, node="attic")
        _expect(answer.header("X-Ollama-Fallback") == "true", "the answer is marked as a fallback")

    def _comes_back(self) -> None:
        self._title("tower comes back, and is found")
        self._until("tower", "status", {"down"})
        self.hosts["tower"] = self._fake("tower", self.hosts["tower"].port)
        self.hosts["tower"].listens()
        state = self._until("tower", "status", {"up", "warming"})
        _say(f"  GET /api/distributed/nodes: tower is {state}")

    def _dies_late(self) -> None:
        self._title("attic dies in mid-answer: the answer ends, visibly broken")
        with self.stage.asked("gemma3") as response:
            stream = lines(response)
            began = list(islice(stream, 2))
            self.hosts["attic"].kill()
            rest: list[str] = []
            broken = False
            try:
                rest += stream
            except HTTPException:
                broken = True
        for line in (began + rest)[-2:]:
            _say(f"  {line[:150]}")
        _expect(broken and '"error"' in "".join(rest), "a broken answer looks broken")
        _say("  ... and the connection is cut, so that nobody takes it for a whole answer.")

    def _away(self) -> None:
        self._title("What attic alone had is away, not gone")
        self._until("attic", "status", {"down"})
        _say("  The question of step 4 again: its answer was kept for such a day.")
        answer = self.stage.chat("gemma3")
        self._answered("gemma3", answer)
        _expect(answer.header("X-Ollama-Cached-Response") == "true", "a kept answer is marked")
        _say("  Another question:")
        answer = self.stage.chat("gemma3", "Why is grass green?")
        _say(f"  POST /api/chat model=gemma3: {answer.status}", f"      {''.join(answer.lines)}")
        _expect(answer.status == 503 and "attic" in answer.lines[0], "a 503 that names attic")
        self._answered("llama3.2", self.stage.chat("llama3.2"), node="desk", reason="local")

    def _fake(self, name: str, port: int = 0) -> Program:
        said = f"This is {name} speaking."
        options = ("--node-name", name, "--say", said, "--token-delay", _PACE)
        return self.stage.fake(_HOSTS[name], *options, port=port)

    def _until(self, name: str, key: str, wanted: Container[str]) -> str:
        """Look at a node until what is known of it is as wanted. Raises Failed."""
        end = self.stage.clock.monotonic() + PATIENCE
        while True:
            shape = json.loads("".join(self.stage.get("/api/distributed/nodes").lines))
            found = next(str(node[key]) for node in shape["nodes"] if node["id"] == name)
            if found in wanted:
                return found
            if self.stage.clock.monotonic() > end:
                raise Failed(f"{key} of {name} stays {found}")
            self.stage.pause(0.1)

    def _answered(
        self, model: str, answer: Answer, *, node: str | None = None, reason: str | None = None
    ) -> None:
        """Print what came, and hold it to what was told."""
        _say(f'  POST /api/chat model={model}: {answer.status} "{answer.said}"')
        for name in _SHOWN:
            if (value := answer.header(name)) is not None:
                _say(f"      {name}: {value}")
        _expect(answer.status == 200, f"{model} answers")
        if node is not None:
            _expect(answer.header("X-Ollama-Node") == node, f"{node} answers")
        if reason is not None:
            _expect(answer.header("X-Ollama-Route-Reason") == reason, f"the reason is {reason}")

    def _title(self, text: str) -> None:
        self._step += 1
        _say(f"\n{self._step}. {text}")


def _expect(happened: bool, what: str) -> None:  # noqa: FBT001  the fact itself
    if not happened:
        raise Failed(what)


def _say(*told: str) -> None:
    for line in told:
        print(line, flush=True)
