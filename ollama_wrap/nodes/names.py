"""Model names, compared as stock compares them (types/model/name.go, internal/modelref).

Owns what makes two spellings one model. It must not know who holds it; the bytes
on the wire keep the client's spelling.
"""

import re
from functools import lru_cache

_HOST = "registry.ollama.ai"
_NAMESPACE = "library"
_TAG = "latest"
# What Go's TrimSpace takes off; Python's strip would take the separators \x1c to \x1f too.
_BLANK = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
#: more than stock's limits add up to: 350 for the host, 80 for each other part
_LONGEST = 1024

_host = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_namespace = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_part = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")


def canonical(name: str) -> str | None:
    """`host/namespace/model:tag` in lower case, defaults filled in; None where stock says 400.

    A source suffix (`:local`, `:cloud`, `-cloud`) is cut off, as stock does it:
    whether a name means the cloud, `is_cloud` says.
    """
    name = name.strip(_BLANK)
    return _canonical(name) if len(name) <= _LONGEST else None


def is_cloud(name: str) -> bool:
    """Whether stock sends a call for `name` to ollama.com, on the account of its own host."""
    name = name.strip(_BLANK)
    return len(name) <= _LONGEST and _source(name)[1] == "cloud"


def short(canonical: str) -> str:
    """A canonical name as stock shows it: without the default registry, then namespace."""
    rest = canonical.removeprefix(f"{_HOST}/")
    return rest if rest is canonical else rest.removeprefix(f"{_NAMESPACE}/")


@lru_cache(4096)
def _canonical(name: str) -> str | None:
    base, source = _source(name)
    if source == "both":
        return None
    tag = _TAG
    if base.rfind(":") > base.rfind("/"):
        base, _, tag = base.rpartition(":")
    place, _, model = base.rpartition("/")
    # An empty part beside a separator is malformed; the defaults are for what was left out.
    host, namespace = _HOST, _NAMESPACE
    if "/" in place:
        host, _, namespace = place.rpartition("/")
        if "://" in host:
            host = host.partition("://")[2] or _HOST
    elif place or "/" in base:
        namespace = place
    valid = (
        _host.fullmatch(host)
        and _namespace.fullmatch(namespace)
        and _part.fullmatch(model)
        and _part.fullmatch(tag)
    )
    return f"{host}/{namespace}/{model}:{tag}".lower() if valid else None


@lru_cache(4096)
def _source(name: str) -> tuple[str, str]:
    """The name without its source suffix, and "cloud", "local", "" or "both"."""
    base, source = _cut_source(name)
    return (base, "both") if source and _cut_source(base)[1] else (base, source)


def _cut_source(name: str) -> tuple[str, str]:
    base, colon, suffix = name.rpartition(":")
    suffix = suffix.strip(_BLANK)
    word = suffix.lower()
    if colon and word in ("cloud", "local"):
        return base, word
    if colon and "/" not in suffix and word.endswith("-cloud"):
        return f"{base}:{suffix[: -len('-cloud')]}", "cloud"
    return name, ""
