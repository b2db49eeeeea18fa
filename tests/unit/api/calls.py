"""Calls as the edge makes them, and a local Ollama to be asked about origins."""

from ollama_wrap.api.origins import Verdict
from ollama_wrap.call import Call, Header
from ollama_wrap.dialects import route
from ollama_wrap.errors import ConnectFailed


class Stock:
    """A local Ollama whose list has one origin more than stock's own."""

    def __init__(self, allowed: bytes = b"") -> None:
        self.allowed = allowed
        self.asked: list[bytes] = []
        self.away = False

    async def __call__(self, origin: bytes) -> Verdict:
        self.asked.append(origin)
        if self.away:
            raise ConnectFailed("refused")
        if origin != self.allowed:
            return Verdict(allowed=False)
        allow = (b"Access-Control-Allow-Origin", origin)
        return Verdict(True, ((b"Access-Control-Allow-Methods", b"GET"), allow))


def call(
    method: str = "GET",
    path: str = "/api/tags",
    *headers: tuple[str, str],
    client: str = "127.0.0.1",
    host: str | None = "localhost:11434",
    body: bytes | None = b"",
) -> Call:
    lines = ([("Host", host)] if host is not None else []) + list(headers)
    raw: list[Header] = [(name.encode("latin-1"), text.encode("latin-1")) for name, text in lines]
    fields: dict[bytes, bytes] = {}
    for name, value in raw:
        fields.setdefault(name.lower(), value)
    found = route(method, path)
    return Call(
        "id-1",
        method,
        path.encode("latin-1"),
        path,
        raw,
        fields=fields,
        client=client,
        dialect=found.dialect,
        operation=found.operation,
        body=body,
    )
