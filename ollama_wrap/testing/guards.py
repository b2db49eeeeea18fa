"""Who may ask: CORS first, then the allowed hosts, as stock checks them.

Owns: both rules and their headers. Must not know: routes.
"""

import socket
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from ipaddress import ip_address, ip_network

from ollama_wrap.testing.reply import Reply
from ollama_wrap.testing.request import Request

_LOCAL = ("localhost", "127.0.0.1", "0.0.0.0")  # noqa: S104 - names in a list, nothing is bound
_DEFAULT_ORIGINS = (
    *(f"{s}://{h}{port}" for s in ("http", "https") for h in _LOCAL for port in ("", ":*")),
    *(f"{s}://*" for s in ("app", "file", "tauri", "vscode-webview", "vscode-file")),
)
_PRIVATE = [
    ip_network(net) for net in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
]
_STAINLESS = (
    "Arch Async Custom-Poll-Interval Helper-Method Lang Os Package-Version Poll-Helper"
    " Retry-Count Runtime Runtime-Version Timeout"
)
_ALLOWED_HEADERS = ",".join(
    [
        "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta",
        *(f"X-Stainless-{name}" for name in _STAINLESS.split()),
    ]
)
_PREFLIGHT = [
    ("Access-Control-Allow-Headers", _ALLOWED_HEADERS),
    ("Access-Control-Allow-Methods", "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),
    ("Access-Control-Max-Age", "43200"),
    ("Vary", "Origin"),
    ("Vary", "Access-Control-Request-Method"),
    ("Vary", "Access-Control-Request-Headers"),
]


@dataclass(slots=True)
class Verdict:
    """The CORS headers for the answer, and the answer itself if the request ends here."""

    headers: list[tuple[str, str]] = field(default_factory=list)
    reply: Reply | None = None


def check(request: Request, origins: tuple[str, ...], *, public: bool) -> Verdict:
    """Judge a request; `public` means the server is bound to an address that is not loopback."""
    verdict = _cors(request, origins)
    if verdict.reply is not None or public:
        return verdict
    host = _bare(request.host)
    if _is_address(host):
        if not _address_allowed(host):
            verdict.reply = Reply(403)
    elif not _name_allowed(host):
        verdict.reply = Reply(403)
    elif request.method == "OPTIONS":
        verdict.reply = Reply(204)
    return verdict


def _cors(request: Request, origins: tuple[str, ...]) -> Verdict:
    origin = request.header("origin")
    if not origin or origin in {f"http://{request.host}", f"https://{request.host}"}:
        return Verdict()
    if "*" in origins:
        headers = [("Access-Control-Allow-Origin", "*")]
    elif any(fnmatchcase(origin, pattern) for pattern in (*origins, *_DEFAULT_ORIGINS)):
        headers = [("Access-Control-Allow-Origin", origin)]
    else:
        return Verdict(reply=Reply(403))
    if request.method == "OPTIONS":
        return Verdict(headers + _PREFLIGHT, Reply(204))
    if "*" not in origins:
        headers.append(("Vary", "Origin"))
    return Verdict(headers)


def _bare(host: str) -> str:
    name, colon, port = host.rpartition(":")
    if colon and port.isdigit() and (":" not in name or name.endswith("]")):
        host = name
    return host.removeprefix("[").removesuffix("]").lower()


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _address_allowed(host: str) -> bool:
    address = ip_address(host)
    if address.is_loopback or address.is_unspecified:
        return True
    return any(address in net for net in _PRIVATE) or _is_ours(host)


def _is_ours(host: str) -> bool:
    """Say whether an interface of this machine has the address: only then it can be bound."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def _name_allowed(host: str) -> bool:
    if host in {"", "localhost", socket.gethostname().lower()}:
        return True
    return host.endswith((".localhost", ".local", ".internal"))
