"""Generation, embedding, loading and unloading in every dialect, whole and streamed."""

from __future__ import annotations

from tests.live.cases.base import Case, post, send

ASKED: dict[str, object] = {"model": "tiny", "prompt": "hi"}
TALK: dict[str, object] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
LOADED = send("/api/generate", {"model": "tiny"})
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
EMBED: dict[str, object] = {"model": "embedder", "input": "hi you"}

NATIVE: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("generate stream", "/api/generate", ASKED),
    ("generate whole", "/api/generate", ASKED | {"stream": False}),
    ("generate limited", "/api/generate", ASKED | {"options": {"num_predict": 3}}),
    ("generate logprobs", "/api/generate", ASKED | {"logprobs": True, "top_logprobs": 3}),
    ("generate raw", "/api/generate", ASKED | {"raw": True}),
    ("generate spelled otherwise", "/api/generate", ASKED | {"model": " TINY "}),
    ("generate by an embedder", "/api/generate", ASKED | {"model": "embedder"}),
    ("chat stream", "/api/chat", TALK),
    ("chat whole", "/api/chat", TALK | {"stream": False}),
    (
        "chat unicode",
        "/api/chat",
        TALK | {"messages": [{"role": "user", "content": "\u00e4\u2603"}]},
    ),
    ("chat odd role", "/api/chat", TALK | {"messages": [{"role": "wizard", "content": "hi"}]}),
    ("chat no content", "/api/chat", TALK | {"messages": [{"role": "user"}]}),
    ("chat text for messages", "/api/chat", TALK | {"messages": "hi"}),
    ("chat tools", "/api/chat", TALK | {"tools": [TOOL]}),
    ("chat think", "/api/chat", TALK | {"think": True}),
    ("chat think off", "/api/chat", TALK | {"think": False}),
    ("chat format bad", "/api/chat", TALK | {"format": "xml"}),
    ("chat option of wrong type", "/api/chat", TALK | {"options": {"temperature": "hot"}}),
    ("chat by an embedder", "/api/chat", TALK | {"model": "embedder"}),
    ("embed", "/api/embed", EMBED),
    ("embed list", "/api/embed", EMBED | {"input": ["hi", "you"]}),
    ("embed empty", "/api/embed", EMBED | {"input": ""}),
    ("embed nothing", "/api/embed", {"model": "embedder"}),
    ("embed empty list", "/api/embed", EMBED | {"input": []}),
    ("embed number", "/api/embed", EMBED | {"input": 7}),
    ("embed dimensions", "/api/embed", EMBED | {"dimensions": 8}),
    ("embed too long", "/api/embed", EMBED | {"input": "word " * 6000, "truncate": False}),
    ("embed truncated", "/api/embed", EMBED | {"input": "word " * 6000}),
    ("embed by a talker", "/api/embed", EMBED | {"model": "tiny"}),
    ("embeddings", "/api/embeddings", {"model": "embedder", "prompt": "hi"}),
    ("embeddings empty", "/api/embeddings", {"model": "embedder"}),
    ("embeddings upper", "/api/embeddings", {"model": "EMBEDDER", "prompt": "hi"}),
)
COMPAT: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("v1 chat", "/v1/chat/completions", TALK),
    ("v1 chat stream", "/v1/chat/completions", TALK | {"stream": True}),
    ("v1 chat stream usage", "/v1/chat/completions", TALK | USAGE),
    ("v1 chat limited", "/v1/chat/completions", TALK | {"max_tokens": 2}),
    ("v1 chat logprobs", "/v1/chat/completions", TALK | {"logprobs": True, "top_logprobs": 2}),
    (
        "v1 chat too many logprobs",
        "/v1/chat/completions",
        TALK | {"top_logprobs": 21, "logprobs": True},
    ),
    ("v1 chat no messages", "/v1/chat/completions", {"model": "tiny"}),
    ("v1 chat no model", "/v1/chat/completions", {"messages": TALK["messages"]}),
    ("v1 chat unknown", "/v1/chat/completions", TALK | {"model": "nope"}),
    ("v1 chat unknown, stream", "/v1/chat/completions", TALK | {"model": "nope", "stream": True}),
    ("v1 chat cloud", "/v1/chat/completions", TALK | {"model": "nope:cloud"}),
    ("v1 chat tools", "/v1/chat/completions", TALK | {"tools": [TOOL]}),
    ("v1 chat by an embedder", "/v1/chat/completions", TALK | {"model": "embedder"}),
    ("v1 completions", "/v1/completions", ASKED),
    ("v1 completions stream", "/v1/completions", ASKED | {"stream": True}),
    ("v1 completions stream usage", "/v1/completions", ASKED | USAGE),
    ("v1 completions suffix", "/v1/completions", ASKED | {"suffix": "x"}),
    ("v1 completions unknown", "/v1/completions", ASKED | {"model": "nope"}),
    ("v1 embeddings", "/v1/embeddings", EMBED),
    ("v1 embeddings base64", "/v1/embeddings", EMBED | {"encoding_format": "base64"}),
    ("v1 embeddings nothing", "/v1/embeddings", {"model": "embedder"}),
    ("v1 embeddings unknown", "/v1/embeddings", EMBED | {"model": "nope"}),
    ("v1 responses", "/v1/responses", {"model": "tiny", "input": "hi"}),
    ("v1 responses stream", "/v1/responses", {"model": "tiny", "input": "hi", "stream": True}),
    ("v1 responses unknown", "/v1/responses", {"model": "nope", "input": "hi", "stream": True}),
    ("v1 responses nothing", "/v1/responses", {"model": "tiny"}),
    ("v1 messages", "/v1/messages", TALK | {"max_tokens": 64}),
    ("v1 messages stream", "/v1/messages?beta=true", TALK | {"max_tokens": 64, "stream": True}),
    ("v1 messages limited", "/v1/messages", TALK | {"max_tokens": 2}),
    ("v1 messages no limit", "/v1/messages", TALK),
    ("v1 messages no messages", "/v1/messages", {"model": "tiny", "max_tokens": 9}),
    ("v1 messages unknown", "/v1/messages", TALK | {"model": "nope", "max_tokens": 9}),
    (
        "v1 messages unknown, stream",
        "/v1/messages",
        TALK | {"model": "nope", "max_tokens": 9, "stream": True},
    ),
    ("v1 messages cloud", "/v1/messages", TALK | {"model": "nope:cloud", "max_tokens": 9}),
    (
        "v1 messages thinking",
        "/v1/messages",
        TALK | {"max_tokens": 9, "thinking": {"type": "enabled"}},
    ),
)
LOADS: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("load by generate", "/api/generate", {"model": "tiny"}),
    ("load by generate, keep", "/api/generate", {"model": "tiny", "keep_alive": "10m"}),
    ("load by chat", "/api/chat", {"model": "tiny"}),
    ("load by chat, no messages", "/api/chat", {"model": "tiny", "messages": []}),
    ("load unknown", "/api/generate", {"model": "nope"}),
    ("unload by generate", "/api/generate", {"model": "tiny", "keep_alive": 0}),
    ("unload by generate, text", "/api/generate", {"model": "tiny", "keep_alive": "0s"}),
    ("unload by chat", "/api/chat", {"model": "tiny", "keep_alive": 0}),
    ("unload what is not loaded", "/api/generate", {"model": "llama3.2:1b", "keep_alive": 0}),
    ("unload unknown", "/api/generate", {"model": "nope", "keep_alive": 0}),
)
FORM = "Content-Type: multipart/form-data; boundary=cut"


def _form(*parts: tuple[str, bytes]) -> bytes:
    made = b"".join(
        b"--cut\r\nContent-Disposition: form-data; name="
        + name.encode()
        + b"\r\n\r\n"
        + value
        + b"\r\n"
        for name, value in parts
    )
    return made + b"--cut--\r\n"


FILE = ('"file"; filename="a.wav"', b"RIFF0000WAVE")
MODEL = ('"model"', b"tiny")
AUDIO = {
    "audio": _form(MODEL, FILE),
    "audio as text": _form(FILE, MODEL, ('"response_format"', b"text")),
    "audio without file": _form(MODEL),
    "audio without model": _form(FILE),
    "audio unknown model": _form(FILE, ('"model"', b"nope")),
    "audio cut off": _form(MODEL, FILE)[:-9],
}

CASES = (
    *(post(name, target, body) for name, target, body in NATIVE + COMPAT),
    *(Case(name, send(target, body), before=(LOADED,)) for name, target, body in LOADS),
    *(post(name, "/v1/audio/transcriptions", body, FORM) for name, body in AUDIO.items()),
    post(
        "audio without boundary",
        "/v1/audio/transcriptions",
        b"x",
        "Content-Type: multipart/form-data",
    ),
    post("audio as json", "/v1/audio/transcriptions", {"model": "tiny"}),
    post("copilot show", "/api/show", {"model": "tiny"}, "User-Agent: GitHubCopilotChat/0.1"),
    post("web search", "/api/experimental/web_search", {"query": "x"}),
    post("web fetch", "/api/experimental/web_fetch", {"url": "http://127.0.0.1:1/"}),
    post("me", "/api/me", b""),
    post("me with a body", "/api/me", {}),
)
