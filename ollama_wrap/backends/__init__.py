"""What nodes speak: how to ask each sort of node questions of our own.

No client's request passes here.

    base.py      the contract
    client.py    the door to httpx2: one client a node
    ollama.py    stock Ollama, and the sidecars in front of one
    sidecar.py   what a sidecar says of itself
    sglang.py    cannot be asked yet
    openai.py    cannot be asked yet

A new sort of node is a file here and a line in `BACKENDS`.
"""

from collections.abc import Callable, Mapping

from ollama_wrap.backends.base import Backend
from ollama_wrap.backends.client import Client
from ollama_wrap.backends.ollama import Ollama
from ollama_wrap.backends.openai import OpenAI
from ollama_wrap.backends.sglang import SGLang
from ollama_wrap.nodes.node import NodeKind

__all__ = ["BACKENDS", "Backend", "Client"]

BACKENDS: Mapping[NodeKind, Callable[[Client], Backend]] = {
    NodeKind.OLLAMA: Ollama,
    NodeKind.SGLANG: SGLang,
    NodeKind.OPENAI: OpenAI,
}
