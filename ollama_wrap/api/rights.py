"""What a caller may do on stock's routes: OLLAMA_WRAP_PROTECT.

Off, everything is stock's own answer. `management` keeps what changes models or the
account to callers on loopback and to the token; `all` keeps every route so. Rights
are checked on our reading of the request; where stock could read another, it is
refused. It must not know the door or our own routes.
"""

import json
import re
from collections.abc import Collection
from typing import Final
from urllib.parse import unquote

from ollama_wrap.api.admin_token import AdminToken
from ollama_wrap.call import Call
from ollama_wrap.errors import BadCall, Forbidden

#: where models may come from and go to without the token
REGISTRIES: Final = frozenset({"registry.ollama.ai", "hf.co", "huggingface.co", "ollama.com"})

_MANAGEMENT = frozenset({"pull", "push", "create", "copy", "delete", "blob", "me", "signout"})
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_NAMES = {"pull": {"model", "name"}, "push": {"model", "name"}, "create": {"from"}}
_FILES = {"files", "adapters", "draft_files"}
_BLOBS = "/api/blobs/"
_digest = re.compile(r"sha256[:-][0-9a-f]{64}")
# Objects become tuples of pairs: Go puts together what a repeated key holds.
_json = json.JSONDecoder(object_pairs_hook=tuple)
#: most bytes of a body that are read here
_READ = 1 << 20


def rights(call: Call, protect: str, token: AdminToken) -> None:
    """Pass or raise: Forbidden, BadCall for a malformed digest, LimitReached.

    Called when the body has been read; where a right hangs on one that is not kept
    (`call.body` is None), it takes the token.
    """
    if protect == "off":
        return
    management = _is_management(call)
    if not management and (protect != "all" or call.method == "OPTIONS"):
        return
    trusted = token.valid(call)
    if not trusted and not call.loopback:
        raise _forbidden("this takes a caller on the same machine or the admin token")
    if management:
        _check_digests(call, trusted=trusted)
        if not trusted and call.operation in _NAMES:
            _check_registries(call)


def _is_management(call: Call) -> bool:
    if call.operation in _MANAGEMENT:
        return True
    # What stock may have that we do not know, experimental/* among it.
    unknown = call.operation == "other" and call.method not in _READING
    return unknown and unquote(call.path).startswith("/api/")


def _check_digests(call: Call, *, trusted: bool) -> None:
    digests: list[object] = []
    path = unquote(call.path)
    if path.startswith(_BLOBS):
        digests.append(path.removeprefix(_BLOBS))
    # Who has the token may send what is too long to be looked at.
    elif call.operation == "create" and (_short(call) or not trusted):
        for files in _values(call, _FILES):
            digests += [digest for _, digest in files] if isinstance(files, tuple) else []
    if any(isinstance(one, str) and not _digest.fullmatch(one) for one in digests):
        raise BadCall("invalid digest format")


def _check_registries(call: Call) -> None:
    if any(value not in (False, None) for value in _values(call, {"insecure"})):
        raise _forbidden("an insecure registry takes the admin token")
    for name in _values(call, _NAMES[call.operation]):
        scheme, host = _registry(name if isinstance(name, str) else "")
        if scheme not in {"", "https"} or host not in REGISTRIES:
            raise _forbidden("models of other registries take the admin token")


def _registry(name: str) -> tuple[str, str]:
    # As stock's types/model/name.go splits a name: from its end.
    name = name.strip()
    if name.rfind(":") > name.rfind("/"):
        name = name.rpartition(":")[0]
    parts = name.rsplit("/", 2)
    if len(parts) < 3:
        return "", "registry.ollama.ai"
    scheme, mark, host = parts[0].rpartition("://")
    return scheme.lower() if mark else "", host.lower()


def _values(call: Call, names: Collection[str]) -> list[object]:
    """Every value that the body gives one of `names`, the ones that a later one replaces too."""
    if not isinstance(call.body, bytes) or len(call.body) > _READ:
        raise _forbidden("a request this large takes the admin token")
    try:
        pairs, _ = _json.raw_decode(call.body.decode("utf-8", "replace").lstrip(" \t\r\n"))
    except (ValueError, RecursionError):
        raise BadCall("the body cannot be read") from None
    if not isinstance(pairs, tuple):
        return []
    return [value for key, value in pairs if key.casefold() in names]


def _short(call: Call) -> bool:
    return call.body is not None and len(call.body) <= _READ


def _forbidden(text: str) -> Forbidden:
    setting = "OLLAMA_WRAP_PROTECT"
    return Forbidden(f"{text} ({setting})", details={"setting": setting})
