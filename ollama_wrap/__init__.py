"""A transparent sidecar for stock Ollama; this file owns the public names and the version.

It must stay cheap to import: what it names is loaded when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ollama_wrap.app import create_app
    from ollama_wrap.config import Settings

__version__ = "0.1.0"
__all__ = ["Settings", "__version__", "create_app"]

_HOMES = {"Settings": "ollama_wrap.config", "create_app": "ollama_wrap.app"}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
