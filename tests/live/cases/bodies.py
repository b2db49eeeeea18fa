"""Bodies as Go reads them: odd JSON, odd types, encodings, model names."""

from __future__ import annotations

import json

import zstandard

from tests.live.cases.base import Case, post

ASKED = {"model": "tiny", "prompt": "hi", "stream": False}
TALK = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
PLAIN = json.dumps(ASKED).encode()

TEXTS = {
    "empty object": b"{}",
    "white space": b" \r\n\t ",
    "null": b"null",
    "list": b"[]",
    "string": b'"tiny"',
    "number": b"123",
    "true": b"true",
    "open brace": b"{",
    "open string": b'{"model":"ti',
    "no quotes": b"{model: 1}",
    "single quotes": b"{'model': 'tiny'}",
    "comma at the end": b'{"model":"tiny","stream":false,}',
    "comment": b'{"model":"tiny"/* x */}',
    "upper keys": b'{"MODEL":"tiny","PROMPT":"hi","STREAM":false}',
    "mixed keys": b'{"mOdEl":"tiny","Prompt":"hi","Stream":false}',
    "long s key": '{"model":"tiny","prompt":"hi","\u017ftream":false}'.encode(),
    "escaped key": b'{"\\u006dodel":"tiny","prompt":"hi","stream":false}',
    "keys twice": b'{"model":"nope","stream":true,"model":"tiny","prompt":"hi","stream":false}',
    "keys twice, other case": b'{"model":"tiny","prompt":"hi","stream":false,"Model":"nope"}',
    "key again as null": b'{"model":"tiny","prompt":"hi","stream":false,"model":null}',
    "stream null": b'{"model":"tiny","prompt":"hi","stream":null}',
    "stream text": b'{"model":"tiny","prompt":"hi","stream":"false"}',
    "stream zero": b'{"model":"tiny","prompt":"hi","stream":0}',
    "trailing text": PLAIN + b" trailing",
    "trailing object": PLAIN + b'{"model":"nope"}',
    "trailing nul": PLAIN + b"\0",
    "white space around": b"\r\n\t " + PLAIN + b" \n",
    "byte order mark": b"\xef\xbb\xbf" + PLAIN,
    "utf-16": PLAIN.decode().encode("utf-16"),
    "carriage return between": PLAIN.replace(b", ", b",\r"),
    "line feed between": PLAIN.replace(b", ", b",\n"),
    "form feed between": PLAIN.replace(b", ", b",\f"),
    "line feed in text": PLAIN.replace(b"hi", b"h\ni"),
    "carriage return in text": PLAIN.replace(b"hi", b"h\ri"),
    "tab in text": PLAIN.replace(b"hi", b"h\ti"),
    "nul in text": PLAIN.replace(b"hi", b"h\0i"),
    "delete in text": PLAIN.replace(b"hi", b"h\x7fi"),
    "bad utf-8 in text": PLAIN.replace(b"hi", b"h\xff\xfei"),
    "bad utf-8 in model": PLAIN.replace(b"tiny", b"ti\xffny"),
    "half surrogate": PLAIN.replace(b"hi", b"\\ud83d hi"),
    "bad escape": PLAIN.replace(b"hi", b"\\x41"),
    "emoji": PLAIN.replace(b"hi", "\U0001f308".encode()),
    "not a number": PLAIN.replace(b"false", b"NaN"),
    "huge number": b'{"model":"tiny","keep_alive":1e999,"stream":false}',
    "leading zero": b'{"model":"tiny","keep_alive":01,"stream":false}',
    "deep": b'{"model":"tiny","stream":false,"x":' + b"[" * 300 + b"]" * 300 + b"}",
    "too deep": b'{"model":"tiny","x":' + b"[" * 10_001 + b"]" * 10_001 + b"}",
}
FIELDS: dict[str, dict[str, object]] = {
    "model number": {"model": 1},
    "model null": {"model": None},
    "model list": {"model": ["tiny"]},
    "prompt number": {"prompt": 1},
    "options list": {"options": []},
    "option of wrong type": {"options": {"num_ctx": "many"}},
    "option unknown": {"options": {"wonder": 1}},
    "fields unknown": {"wonder": {"a": [1, 2.50, None]}, "name": "other"},
    "num_predict": {"options": {"num_predict": 2}},
    "stop": {"options": {"stop": ["brown"]}},
    "raw": {"raw": True},
    "system": {"system": "Be brief."},
    "template": {"template": "{{ .System }} {{ .Prompt }}"},
    "template bad": {"template": "{{ .Wonder "},
    "context": {"context": [260, 261]},
    "context of wrong type": {"context": "x"},
    "suffix": {"suffix": "end"},
    "images bad": {"images": ["%%%"]},
    "images": {"images": ["aGk="]},
    "format bad": {"format": "xml"},
    "format number": {"format": 7},
    "think": {"think": True},
    "think level": {"think": "high"},
    "think bad": {"think": "deeply"},
    "logprobs": {"logprobs": True, "top_logprobs": 2},
    "too many logprobs": {"logprobs": True, "top_logprobs": 21},
    "render only": {"_debug_render_only": True},
    "truncate off": {"truncate": False, "shift": False},
    "prompt longer than the context": {"prompt": "word " * 99, "options": {"num_ctx": 64}},
    "prompt longer, not to be cut": {"prompt": "word " * 2000, "truncate": False, "shift": False},
    "large unknown field": {"wonder": "x" * 3_000_000},
    "keep_alive fraction": {"keep_alive": 90.5},
    "keep_alive text": {"keep_alive": "5m"},
    "keep_alive forever": {"keep_alive": -1},
    "keep_alive empty": {"keep_alive": ""},
    "keep_alive bad": {"keep_alive": "abc"},
    "keep_alive true": {"keep_alive": True},
    "keep_alive null": {"keep_alive": None},
}
NAMES = (
    "",
    " tiny ",
    "\ttiny\n",
    "TINY",
    "tiny:latest",
    "Tiny:LATEST",
    "library/tiny",
    "registry.ollama.ai/library/tiny:latest",
    "https://registry.ollama.ai/library/tiny",
    "ollama.com/library/tiny",
    "other/tiny",
    "tiny:local",
    "tiny:LOCAL",
    "tiny:local:cloud",
    "tiny:cloud",
    "tiny-cloud",
    "tiny:8b-cloud",
    "llama3.2:1b",
    "llama3.2",
    "nope",
    "nope:",
    ":nope",
    "a b",
    "../x",
    "a/b/c/d",
    "tiny@sha256:" + "0" * 64,
    "x" * 400,
    "sha256-" + "0" * 64,
    "t\u00efny",
    "embedder",
)
MODEL_ROUTES = (
    "/api/chat",
    "/api/show",
    "/api/embed",
    "/api/embeddings",
    "/v1/chat/completions",
    "/v1/messages",
)
EMPTY_ON = (
    *MODEL_ROUTES,
    "/api/pull",
    "/api/push",
    "/api/create",
    "/api/copy",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/audio/transcriptions",
)
TYPES = (
    "application/x-www-form-urlencoded",
    "text/plain; charset=latin-1",
    "multipart/form-data; boundary=x",
    "application/octet-stream",
    "nonsense",
    "",
)
ZSTD = zstandard.ZstdCompressor().compress(json.dumps(TALK).encode())
BIG_ZSTD = zstandard.ZstdCompressor().compress(b" " * (21 << 20) + json.dumps(TALK).encode())
PACKED = "Content-Encoding: zstd"


def _named(route: str, name: str) -> Case:
    body = TALK | {"model": name, "input": "hi", "prompt": "hi", "stream": False, "max_tokens": 9}
    return post(f"name {name[:30]!r} on {route}", route, body)


CASES = (
    *(post(f"json {name}", "/api/generate", text) for name, text in TEXTS.items()),
    *(
        post(f"json {name} on v1", "/v1/chat/completions", TEXTS[name])
        for name in ("white space", "open brace", "null", "list", "too deep")
    ),
    *(post(f"field {name}", "/api/generate", ASKED | more) for name, more in FIELDS.items()),
    *(_named("/api/generate", name) for name in NAMES),
    *(
        _named(route, name)
        for route in MODEL_ROUTES
        for name in ("", "a b", "nope", "TINY", "x:cloud")
    ),
    *(post(f"empty on {route}", route, b"") for route in EMPTY_ON),
    *(
        post(f"type {kind or 'empty'}", "/api/generate", PLAIN, f"Content-Type: {kind}")
        for kind in TYPES
    ),
    post("gzip", "/api/generate", b"\x1f\x8b\x08\0\0\0\0\0", "Content-Encoding: gzip"),
    post("gzip on v1", "/v1/chat/completions", b"\x1f\x8b\x08\0\0\0\0\0", "Content-Encoding: gzip"),
    post("identity", "/api/generate", PLAIN, "Content-Encoding: identity"),
    post("zstd", "/v1/chat/completions", ZSTD, PACKED),
    post("zstd upper", "/v1/chat/completions", ZSTD, "Content-Encoding: ZSTD"),
    post("zstd stream", "/v1/responses", ZSTD, PACKED),
    post("zstd on api", "/api/chat", ZSTD, PACKED),
    post("zstd broken", "/v1/chat/completions", ZSTD[:-9], PACKED),
    post("zstd that is none", "/v1/messages", json.dumps(TALK).encode(), PACKED),
    post("zstd too big", "/v1/chat/completions", BIG_ZSTD, PACKED),
    post("zstd unlabelled", "/v1/chat/completions", ZSTD),
)
