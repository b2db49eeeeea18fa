"""Servers that speak OpenAI's API: accepted and shown; asked once this file can do it."""

from ollama_wrap.backends.base import Unable


class OpenAI(Unable):
    """A node with `kind=openai`."""

    name = "openai"
