"""Who may use our own routes: each route names one scope. It must not know what routes do."""

from ollama_wrap.api.admin_token import AdminToken
from ollama_wrap.call import Call
from ollama_wrap.errors import CallerError, Forbidden

_FORMS = frozenset({b"application/x-www-form-urlencoded", b"multipart/form-data", b"text/plain"})


class Scopes:
    """Each scope returns, or raises Forbidden, Unauthorized or LimitReached.

    `protect` is OLLAMA_WRAP_PROTECT; `tokens`: another kind of token is configured.
    """

    def __init__(self, token: AdminToken, *, protect: str, tokens: bool) -> None:
        self._token = token
        self.obey(protect=protect, tokens=tokens)

    def obey(self, *, protect: str, tokens: bool) -> None:
        """Go by these from now on."""
        self._protect = protect
        self._tokens = tokens

    def read(self, call: Call) -> None:
        """Loopback and private addresses, else the token; OLLAMA_WRAP_PROTECT=all closes it."""
        if not call.loopback and (self._protect == "all" or not call.near):
            self._token.demand(call)

    def requests(self, call: Call) -> None:
        """What runs now: a caller on loopback, else the token."""
        if not call.loopback:
            self._token.demand(call)

    def write(self, call: Call) -> None:
        """The token; where none is configured, a caller on loopback who sends no HTML form."""
        if self._token.configured or self._tokens:
            self._token.demand(call)
            return
        if not call.loopback:
            raise Forbidden(
                "changes are taken from this machine only, without a browser or a proxy between; "
                "set OLLAMA_ADMIN_TOKEN to make them from elsewhere",
                details={"setting": "OLLAMA_ADMIN_TOKEN"},
            )
        kind = call.fields.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind in _FORMS:
            raise CallerError("send JSON, with Content-Type: application/json", status=415)

    def admin(self, call: Call) -> None:
        """The token, wherever the caller is."""
        self._token.demand(call, closed="ADMIN_DISABLED")
