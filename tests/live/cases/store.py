"""What changes the store: show, copy, delete, create, pull, push and blobs."""

from __future__ import annotations

import hashlib

from tests.live.cases.base import Case, ask, chunked, head, post, send
from tests.live.exchange import Script

NOWHERE = "http://127.0.0.1:1/library/x"
"""A registry where nobody listens: pulls and pushes fail at once, and always alike."""


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _upload(content: bytes, *headers: str) -> Script:
    return send(f"/api/blobs/{_digest(content)}", content, *headers)


def _copy(source: str, destination: str) -> Script:
    return send("/api/copy", {"source": source, "destination": destination})


def _delete(body: object) -> Script:
    return send("/api/delete", body, method="DELETE")


def _large_blob() -> Script:
    """An upload that the early answer to an existing blob cuts short."""
    content = b"large" * 100_000
    target = f"/api/blobs/{_digest(content)}"
    return Script(
        head("POST", target, f"Content-Length: {len(content)}") + b"\r\n",
        pieces=tuple(content[at : at + 50_000] for at in range(0, len(content), 50_000)),
    )


LARGE = b"large" * 100_000
KNOWN = b"a blob that is there"
WRONG = "sha256:" + "1" * 64
COPIED = _copy("tiny", "copied")
MADE: dict[str, object] = {"model": "made", "from": "tiny"}

CREATES: dict[str, dict[str, object]] = {
    "from": MADE,
    "from, whole": MADE | {"stream": False},
    "from, by name": {"name": "made", "model": "", "from": "tiny"},
    "from, system": MADE | {"system": "Be brief.", "stream": False},
    "from, template": MADE | {"template": "{{ .Prompt }}!", "parameters": {"num_ctx": 512}},
    "from, bad template": MADE | {"template": "{{ .Wonder "},
    "nothing": {"model": "made"},
    "no name": {"from": "tiny"},
    "bad name": MADE | {"model": "a b"},
    "bad source": MADE | {"from": "a b"},
    "unknown source": MADE | {"from": NOWHERE},
    "unknown blob": {"model": "made", "files": {"m.gguf": WRONG}},
    "unknown blob, whole": {"model": "made", "files": {"m.gguf": WRONG}, "stream": False},
    "absolute path": {"model": "made", "files": {"/etc/m.gguf": WRONG}},
    "blob that is no model": {"model": "made", "files": {"m.gguf": _digest(KNOWN)}},
    "from and files": MADE | {"files": {"m.gguf": WRONG}},
    "quantize": MADE | {"quantize": "wonder", "stream": False},
    "remote stub": MADE | {"remote_host": "http://127.0.0.1:1"},
}
SHOWS: dict[str, dict[str, object]] = {
    "model": {"model": "tiny"},
    "name": {"name": "tiny", "model": ""},
    "verbose": {"model": "tiny", "verbose": True},
    "embedder": {"model": "embedder"},
    "unknown": {"model": "nope"},
    "nothing": {},
    "cloud": {"model": "nope:cloud"},
    "system": {"model": "tiny", "system": "Be brief."},
}
PULLS: dict[str, dict[str, object]] = {
    "nowhere": {"model": NOWHERE, "insecure": True},
    "nowhere, whole": {"model": NOWHERE, "insecure": True, "stream": False},
    "not secure": {"model": NOWHERE},
    "by name": {"name": NOWHERE, "model": "", "insecure": True},
    "bad name": {"model": "a b"},
    "no name": {},
    "twice the source": {"model": "x:local:cloud"},
}

CASES = (
    *(post(f"show {name}", "/api/show", body) for name, body in SHOWS.items()),
    Case("copy", COPIED),
    Case("copy onto itself", _copy("tiny", "tiny")),
    Case("copy unknown", _copy("nope", "copied")),
    Case("copy to a bad name", _copy("tiny", "a b")),
    Case("copy to nothing", _copy("tiny", "")),
    Case("delete", _delete({"model": "copied"}), before=(COPIED,)),
    Case("delete by name", _delete({"name": "copied", "model": ""}), before=(COPIED,)),
    Case("delete upper", _delete({"model": "COPIED"}), before=(COPIED,)),
    Case("delete unknown", _delete({"model": "nope"})),
    Case("delete nothing", _delete({})),
    Case("delete bad name", _delete({"model": "a b"})),
    Case("delete without a body", ask("DELETE", "/api/delete")),
    Case("delete with an empty body", _delete(b"")),
    Case(
        "delete chunked",
        Script(chunked("/api/delete", b'{"model":"copied"}').sent.replace(b"POST", b"DELETE", 1)),
        before=(COPIED,),
    ),
    *(
        Case(f"create {name}", send("/api/create", body), before=(_upload(KNOWN),))
        for name, body in CREATES.items()
    ),
    Case("create again", send("/api/create", MADE), before=(send("/api/create", MADE),)),
    *(post(f"pull {name}", "/api/pull", body) for name, body in PULLS.items()),
    *(post(f"push {name}", "/api/push", body) for name, body in PULLS.items()),
    post("push unknown", "/api/push", {"model": "127.0.0.1:1/a/nope", "insecure": True}),
    Case("blob new", _upload(b"one")),
    Case("blob new, labelled json", _upload(b"two", "Content-Type: application/json")),
    Case("blob new, chunked", chunked(f"/api/blobs/{_digest(b'three' * 99)}", b"three" * 99)),
    Case("blob new, empty", _upload(b"")),
    Case("blob new, in pieces", _large_blob()),
    Case("blob there", _upload(KNOWN), before=(_upload(KNOWN),)),
    Case(
        "blob there, chunked",
        chunked(f"/api/blobs/{_digest(KNOWN)}", KNOWN),
        before=(_upload(KNOWN),),
    ),
    Case("blob there, large", _large_blob(), before=(_upload(LARGE),)),
    Case(
        "blob there, expected",
        Script(
            head(
                "POST",
                f"/api/blobs/{_digest(KNOWN)}",
                f"Content-Length: {len(KNOWN)}",
                "Expect: 100-continue",
            )
            + b"\r\n",
            after_continue=KNOWN,
        ),
        before=(_upload(KNOWN),),
    ),
    Case("blob of another digest", send(f"/api/blobs/{WRONG}", b"something else")),
    Case("blob of a malformed digest", send("/api/blobs/sha256:abc", b"x")),
    Case("blob of a malformed digest, large", send("/api/blobs/nonsense", b"x" * 1_000_000)),
    Case("blob of upper digest", send("/api/blobs/SHA256:" + "1" * 64, b"x")),
    Case("blob with dash", send("/api/blobs/" + _digest(b"dash").replace(":", "-"), b"dash")),
    Case("blob head", ask("HEAD", f"/api/blobs/{_digest(KNOWN)}"), before=(_upload(KNOWN),)),
    Case("blob head, unknown", ask("HEAD", f"/api/blobs/sha256:{'2' * 64}")),
    Case("blob head, malformed", ask("HEAD", "/api/blobs/sha256:abc")),
    Case("blob put", send(f"/api/blobs/{_digest(b'put')}", b"put", method="PUT")),
    Case("blob deleted", ask("DELETE", f"/api/blobs/{_digest(KNOWN)}")),
)
