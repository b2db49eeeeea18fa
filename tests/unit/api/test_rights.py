import json

import pytest

from ollama_wrap.api.admin_token import AdminToken
from ollama_wrap.api.rights import rights
from ollama_wrap.call import Call
from ollama_wrap.errors import BadCall, Forbidden
from tests.fakes.clock import FakeClock
from tests.unit.api.calls import call

TOKEN = "correct horse battery"
BEARER = ("Authorization", f"Bearer {TOKEN}")
DIGEST = "sha256:" + "a" * 64
FAR = "192.168.1.9"
MANAGEMENT = [
    ("POST", "/api/pull"),
    ("POST", "/api/push"),
    ("POST", "/api/create"),
    ("POST", "/api/copy"),
    ("DELETE", "/api/delete"),
    ("POST", f"/api/blobs/{DIGEST}"),
    ("HEAD", f"/api/blobs/{DIGEST}"),
    ("POST", "/api/me"),
    ("POST", "/api/signout"),
    ("DELETE", "/api/user/keys/x"),
    ("POST", "/api/experimental/web_search"),
    ("POST", "/api/experimental/web_fetch"),
    # Stock matches the decoded path.
    ("POST", "/api/%70ull"),
    ("POST", "/%61pi/experimental/web_search"),
]
OPEN = [
    ("POST", "/api/chat"),
    ("POST", "/v1/messages"),
    ("POST", "/v1/messages/count_tokens"),
    ("GET", "/api/tags"),
    ("POST", "/api/show"),
    ("GET", "/nope"),
]


def check(made: Call, protect: str = "management", *, loopback: bool = False) -> None:
    made.loopback = loopback
    rights(made, protect, AdminToken(TOKEN, FakeClock()))


def posted(path: str, body: object, *headers: tuple[str, str]) -> Call:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return call("POST", path, *headers, body=text)


@pytest.mark.parametrize("method, path", MANAGEMENT + OPEN)
def test_unprotected_everything_is_stock_s_answer(method: str, path: str) -> None:
    check(call(method, path, client=FAR, body=None), "off")


@pytest.mark.parametrize("protect", ["management", "all"])
@pytest.mark.parametrize("method, path", MANAGEMENT)
def test_management_from_elsewhere_is_forbidden_by_a_named_setting(
    method: str, path: str, protect: str
) -> None:
    with pytest.raises(Forbidden, match="OLLAMA_WRAP_PROTECT"):
        check(call(method, path, client=FAR, body=b"{}"), protect)


@pytest.mark.parametrize("method, path", MANAGEMENT)
def test_management_is_open_to_loopback_callers_and_the_token(method: str, path: str) -> None:
    check(call(method, path, body=b"{}"), loopback=True)
    check(call(method, path, BEARER, client=FAR, body=b"{}"))


@pytest.mark.parametrize("method, path", OPEN)
def test_other_routes_are_closed_only_by_all(method: str, path: str) -> None:
    check(call(method, path, client=FAR))
    check(call(method, path, BEARER, client=FAR), "all")
    check(call(method, path), "all", loopback=True)
    with pytest.raises(Forbidden, match="OLLAMA_WRAP_PROTECT"):
        check(call(method, path, client=FAR), "all")


def test_preflights_pass_since_browsers_send_them_without_a_token() -> None:
    check(call("OPTIONS", "/api/pull", client=FAR), "all")


@pytest.mark.parametrize("path", ["/api/pull", "/api/push"])
@pytest.mark.parametrize(
    "body",
    [
        {"model": "evil.example/x/y"},
        {"name": "evil.example/x/y"},
        {"NAME": "evil.example/x/y:tag"},
        {"model": "llama3", "name": "evil.example/x/y"},
        {"model": "http://10.0.0.1/x"},
        {"model": "https://evil.example/a/b"},
        {"model": "http://registry.ollama.ai/library/x"},
        {"model": "registry.ollama.ai:8080/library/x"},
        {"model": "llama3", "insecure": True},
        {"model": "llama3", "in\u017fecure": True},
        b'{"model":"evil.example/x/y","model":"llama3"} trailing',
    ],
)
def test_other_registries_take_the_token(path: str, body: object) -> None:
    with pytest.raises(Forbidden):
        check(posted(path, body), loopback=True)
    check(posted(path, body, BEARER))


@pytest.mark.parametrize(
    "body",
    [
        {"model": "llama3.2:1b"},
        {"model": "", "name": " library/llama3 "},
        {"model": "https://registry.ollama.ai/library/llama3:latest"},
        {"model": "HF.co/a/b:Q4_K_M", "insecure": False},
        {"model": 5},
        b'["model"]',
    ],
)
def test_known_registries_are_open_to_loopback_callers(body: object) -> None:
    check(posted("/api/pull", body), loopback=True)


def test_create_may_not_bring_a_base_from_another_registry() -> None:
    check(posted("/api/create", {"model": "evil.example/x/y", "from": "llama3"}), loopback=True)
    with pytest.raises(Forbidden):
        check(posted("/api/create", {"model": "y", "from": "evil.example/x/y"}), loopback=True)


@pytest.mark.parametrize(
    "path",
    ["/api/blobs/sha256:..%2f..%2fx", "/api/blobs/sha256:abc", f"/api/blobs/{DIGEST.upper()}",
     f"/api/blobs/{DIGEST}0"],
)  # fmt: skip
def test_malformed_digest_in_the_path_is_bad(path: str) -> None:
    with pytest.raises(BadCall):
        check(call("POST", path, BEARER))


@pytest.mark.parametrize("key", ["files", "adapters", "draft_files", "Files"])
def test_malformed_digest_in_the_body_is_bad(key: str) -> None:
    good = {"model": "m", key: {"a.gguf": DIGEST, "b.gguf": DIGEST.replace(":", "-")}}
    bad = {"model": "m", key: {"a.gguf": DIGEST, "b.gguf": "sha256:../../x"}}

    check(posted("/api/create", good), loopback=True)
    with pytest.raises(BadCall):
        check(posted("/api/create", bad, BEARER))


def test_digest_hidden_by_a_repeated_key_is_seen() -> None:
    body = b'{"files":{"a":"sha256:../x"},"files":{}}'

    with pytest.raises(BadCall):
        check(posted("/api/create", body), loopback=True)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[" * 100_000, b'{"model":' + b"9" * 5000 + b"}", b"\xff"]
)
def test_unreadable_body_is_bad_where_a_right_hangs_on_it(body: bytes) -> None:
    with pytest.raises(BadCall):
        check(posted("/api/pull", body), loopback=True)


@pytest.mark.parametrize("body", [None, b" " * (2 << 20)])
@pytest.mark.parametrize("path", ["/api/pull", "/api/create"])
def test_body_too_large_to_be_read_takes_the_token(path: str, body: bytes | None) -> None:
    with pytest.raises(Forbidden):
        check(call("POST", path, body=body), loopback=True)
    check(call("POST", path, BEARER, body=body))
