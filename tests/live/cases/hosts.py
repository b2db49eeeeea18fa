"""Host and Origin: who is let in, and what browsers are told."""

from __future__ import annotations

from tests.live.cases.base import HOST, Case, ask, get, send

CHAT = {"model": "tiny", "stream": False, "messages": [{"role": "user", "content": "hi"}]}

HOSTS = (
    "localhost",
    "LOCALHOST:1234",
    "127.0.0.1:99",
    "127.0.0.1",
    "10.1.2.3",
    "192.168.1.5:80",
    "0.0.0.0",
    "[::1]",
    "[::1]:11434",
    "[fd00::1]",
    "foo.localhost",
    "foo.local",
    "a.internal:1",
    "host.docker.internal",
    "example.com",
    "example.com:11434",
    "8.8.8.8",
    "ollama",
    "my-box",
    "localhost.",
    "[fe80::1]",
    "169.254.1.1",
    "100.64.0.5",
    "localhost.evil.com",
    "127.0.0.1.nip.io",
    "localhost:port",
    "a b",
    "::1",
    "user@localhost",
    "",
)
ORIGINS = (
    f"http://{HOST}",
    f"https://{HOST}",
    "http://localhost",
    "http://localhost:3000",
    "https://localhost:3000",
    "http://127.0.0.1:9",
    "http://0.0.0.0",
    "app://obsidian.md",
    "file://x",
    "tauri://localhost",
    "vscode-webview://abc",
    "vscode-file://x",
    "http://evil.example",
    "http://localhost.evil.example",
    "http://localhost:3000.evil.example",
    "HTTP://LOCALHOST",
    "null",
    "chrome-extension://abc",
    "http://[::1]:3000",
    "http://192.168.1.5",
    "http://example.com/path",
    "localhost",
    "",
)
WANTS = (
    "Access-Control-Request-Method: POST",
    "Access-Control-Request-Headers: content-type, x-api-key",
)
LOCAL, FOREIGN = "Origin: http://localhost:3000", "Origin: http://evil.example"

CASES = (
    *(get(f"host {host or 'empty'}", "/api/version", host=host) for host in HOSTS),
    get("host missing", "/api/version", host=None),
    get("host twice", "/api/version", "Host: localhost"),
    *(Case(f"options host {host}", ask("OPTIONS", "/api/chat", host=host)) for host in HOSTS[:18]),
    get("host foreign on unknown path", "/nope", host="example.com"),
    Case("host foreign on head", ask("HEAD", "/", host="example.com")),
    *(
        get(f"origin {origin or 'empty'}", "/api/version", f"Origin: {origin}")
        for origin in ORIGINS
    ),
    get("origin twice", "/api/version", LOCAL, FOREIGN),
    get("origin same as the other host", "/api/version", "Origin: http://example.com"),
    get("origin of a foreign host", "/api/tags", "Origin: http://foo.com", host="foo.com"),
    get("origin allowed on unknown path", "/nope", LOCAL),
    get("origin foreign on unknown path", "/nope", FOREIGN),
    get("origin allowed on wrong method", "/api/chat", LOCAL),
    get("origin foreign on redirect", "/api/tags/", FOREIGN),
    get("origin foreign on unclean path", "//api/tags", FOREIGN),
    Case("origin allowed on chat", send("/api/chat", CHAT, LOCAL)),
    Case("origin foreign on chat", send("/api/chat", CHAT, FOREIGN)),
    Case("origin foreign on blob", send("/api/blobs/sha256:" + "1" * 64, b"x" * 99, FOREIGN)),
    Case("origin allowed on error", send("/v1/chat/completions", {"model": "nope"}, LOCAL)),
    *(
        Case(
            f"preflight {origin or 'empty'}",
            ask("OPTIONS", "/api/chat", f"Origin: {origin}", *WANTS),
        )
        for origin in ORIGINS
    ),
    Case("preflight unknown path", ask("OPTIONS", "/nope", LOCAL, *WANTS)),
    Case("preflight foreign host", ask("OPTIONS", "/api/chat", LOCAL, *WANTS, host="foo.com")),
    Case("options with origin alone", ask("OPTIONS", "/v1/messages", LOCAL)),
)
