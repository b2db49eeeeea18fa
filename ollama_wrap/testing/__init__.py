"""A fake Ollama that tests, demos and chaos runs can make slow, wrong or dead.

`server` starts it, `routes` says what answers what; `native`, `openai`, `agents`, `lists` and
`management` answer; `sched` loads, `speech` talks; `script` says what goes wrong, `reply` bends
the bytes, `ledger` remembers. It needs asyncio and imports nothing else of ollama_wrap.
"""

from ollama_wrap.testing.daemon import Options
from ollama_wrap.testing.ledger import End, Entry, Ledger
from ollama_wrap.testing.script import FAILURES, RAW, Rule, Script
from ollama_wrap.testing.server import FakeOllama
from ollama_wrap.testing.store import Model, ModelSpec, Store

__all__ = [
    "FAILURES",
    "RAW",
    "End",
    "Entry",
    "FakeOllama",
    "Ledger",
    "Model",
    "ModelSpec",
    "Options",
    "Rule",
    "Script",
    "Store",
]
