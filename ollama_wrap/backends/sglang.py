"""SGLang servers: accepted and shown; asked and routed to once this file can do it."""

from ollama_wrap.backends.base import Unable


class SGLang(Unable):
    """A node with `kind=sglang`."""

    name = "sglang"
