"""Model names as stock Ollama parses them.

Owns: the parts of a name, their defaults, the :cloud and :local suffixes, comparison without case.
Must not know: which models exist.
"""

import re
from dataclasses import dataclass

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}\Z")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}\Z")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}\Z")
_DEFAULT_HOST, _DEFAULT_NAMESPACE = "registry.ollama.ai", "library"


class BadNameError(Exception):
    """A name that stock refuses; ``str()`` is its sentence."""


@dataclass(frozen=True, slots=True)
class Name:
    """A model name in four parts, and where it points: "", "cloud" or "local"."""

    host: str
    namespace: str
    model: str
    tag: str
    source: str = ""

    @property
    def short(self) -> str:
        """The name without the parts that are the default, always with its tag."""
        parts = [self.host, self.namespace, self.model]
        if self.host == _DEFAULT_HOST:
            del parts[0]
            if self.namespace == _DEFAULT_NAMESPACE:
                del parts[0]
        return f"{'/'.join(parts)}:{self.tag}"

    @property
    def full(self) -> str:
        """The name with every part."""
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def key(self) -> str:
        """What two spellings of one model have in common."""
        return self.full.casefold()


def parse(text: str) -> Name:
    """Return the parts of `text`. Raises BadNameError."""
    text = text.strip()
    rest, source = _cut_source(text)
    if source and _cut_source(rest)[1]:
        raise BadNameError(f'use either :local or :cloud, not both: "{text}"')
    rest = rest.rpartition("://")[2]
    path, tag = rest, "latest"
    if rest.rfind(":") > rest.rfind("/"):
        path, _, tag = rest.rpartition(":")
    parts = path.split("/")
    # A host may hold a colon and further slashes are refused, so three parts are the most.
    host = parts.pop(0) if len(parts) == len(("host", "namespace", "model")) else _DEFAULT_HOST
    namespace = parts.pop(0) if len(parts) > 1 else _DEFAULT_NAMESPACE
    model = "/".join(parts)
    valid = _HOST.match(host) and _NAMESPACE.match(namespace)
    if not (valid and _PART.match(model) and _PART.match(tag)):
        raise BadNameError("invalid model name")
    return Name(host, namespace, model, tag, source)


def _cut_source(text: str) -> tuple[str, str]:
    head, colon, last = text.rpartition(":")
    word = last.casefold()
    if colon and word in {"cloud", "local"}:
        return head, word
    if colon and word.endswith("-cloud") and "/" not in last:
        return text[: -len("-cloud")], "cloud"
    return text, ""
