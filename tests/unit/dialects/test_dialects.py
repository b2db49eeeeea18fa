"""Which request is what: method and path alone."""

import pytest

from ollama_wrap.call import Kind
from ollama_wrap.dialects import DIALECTS, Route, route

INFER = ("generate", "chat", "embed", "embeddings")


@pytest.mark.parametrize("operation", INFER)
def test_native_inference_reads_its_body_and_may_be_repeated(operation: str) -> None:
    found = route("POST", f"/api/{operation}")

    assert found == Route(Kind.INFER, operation, "ollama", reads_body=True, repeatable=True)


@pytest.mark.parametrize(
    "path,operation,dialect",
    [
        ("/v1/chat/completions", "chat-completions", "openai"),
        ("/v1/completions", "completions", "openai"),
        ("/v1/embeddings", "openai-embeddings", "openai"),
        ("/v1/responses", "responses", "openai"),
        ("/v1/audio/transcriptions", "transcriptions", "openai"),
        ("/v1/messages", "messages", "anthropic"),
    ],
)
def test_compatible_inference_has_its_own_dialect(path: str, operation: str, dialect: str) -> None:
    found = route("POST", path)

    assert found == Route(Kind.INFER, operation, dialect, reads_body=True, repeatable=True)


@pytest.mark.parametrize(
    "method,path,kind,operation,repeatable",
    [
        ("GET", "/", Kind.LIST, "root", True),
        ("HEAD", "/", Kind.LIST, "root", True),
        ("HEAD", "/api/version", Kind.LIST, "version", True),
        ("HEAD", "/api/tags", Kind.LIST, "tags", True),
        ("GET", "/api/ps", Kind.LIST, "ps", True),
        ("GET", "/v1/models", Kind.LIST, "models", True),
        ("GET", "/api/status", Kind.OTHER, "status", True),
        ("POST", "/api/show", Kind.FOLLOW, "show", True),
        ("DELETE", "/api/delete", Kind.FOLLOW, "delete", False),
        ("POST", "/api/copy", Kind.FOLLOW, "copy", False),
        ("POST", "/api/pull", Kind.ONCE, "pull", False),
        ("POST", "/api/push", Kind.ONCE, "push", False),
        ("POST", "/api/create", Kind.ONCE, "create", False),
        ("POST", "/api/blobs/sha256:ab", Kind.ONCE, "blob", False),
        ("HEAD", "/api/blobs/sha256:ab", Kind.ONCE, "blob", True),
        ("POST", "/api/me", Kind.OTHER, "me", False),
        ("POST", "/api/signout", Kind.OTHER, "signout", False),
        ("DELETE", "/api/user/keys/abc", Kind.OTHER, "signout", False),
    ],
)
def test_each_route_of_stock_has_its_kind(
    method: str, path: str, kind: Kind, operation: str, repeatable: bool
) -> None:
    found = route(method, path)

    assert (found.kind, found.operation, found.repeatable) == (kind, operation, repeatable)


@pytest.mark.parametrize(
    "method,path",
    [
        ("HEAD", "/api/ps"),
        ("GET", "/api/generate"),
        ("POST", "/api/generate/"),
        ("POST", "//api/generate"),
        ("POST", "/api/../api/generate"),
        ("POST", "/API/generate"),
        ("POST", "/api/generate%"),
        ("POST", "/api/generate%zz"),
        ("GET", "/api/blobs/sha256:ab"),
        ("GET", "/v1/models/"),
        ("GET", "/v1/models/library/x"),
        ("GET", "/v1/models/library%2Fx"),
        ("GET", "/v1/models/..%2f"),
        ("GET", "/v1/models/.."),
        ("GET", "/v1/models/%2e"),
        ("POST", "/v1/messages/count_tokens"),
        ("POST", "/api/experimental/web_search"),
        ("OPTIONS", "*"),
        ("CONNECT", "host:443"),
        ("GET", ""),
    ],
)
def test_what_stock_does_not_serve_under_this_path_is_other(method: str, path: str) -> None:
    found = route(method, path)

    assert (found.kind, found.operation, found.model) == (Kind.OTHER, "other", None)


@pytest.mark.parametrize(
    "path,operation",
    [("/api/%67enerate", "generate"), ("/%61pi/pull", "pull"), ("/api%2Fpull", "pull")],
)
def test_escaped_letters_are_matched_as_stock_matches_them(path: str, operation: str) -> None:
    assert route("POST", path) == route("POST", f"/api/{operation}")


@pytest.mark.parametrize(
    "path,model",
    [("tiny", "tiny"), ("tiny:latest", "tiny:latest"), ("tiny%3Alatest", "tiny:latest")],
)
def test_model_in_the_path_is_found(path: str, model: str) -> None:
    found = route("GET", f"/v1/models/{path}")

    assert (found.kind, found.model, found.reads_body) == (Kind.FOLLOW, model, False)


@pytest.mark.parametrize(
    "path,dialect",
    [
        ("/api/nope", "ollama"),
        ("/nope", "ollama"),
        ("/v1/nope", "openai"),
        ("/v1/messages/count_tokens", "anthropic"),
    ],
)
def test_errors_of_unknown_paths_have_the_form_of_their_neighbours(path: str, dialect: str) -> None:
    assert route("POST", path).dialect == dialect


def test_each_dialect_is_found_under_its_own_name() -> None:
    assert {name: dialect.name for name, dialect in DIALECTS.items()} == {
        "ollama": "ollama",
        "openai": "openai",
        "anthropic": "anthropic",
    }
