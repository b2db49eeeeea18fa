"""Every error of the program, as one tree; each knows its HTTP status and code.

    WrapError
      ConfigError          the program will not start
      CallerError          4xx, and 508 for a loop
        BadCall · Unauthorized · Forbidden · LimitReached · ModelUnknown
      Unavailable          503
        NoUpstream · AttemptsFailed · Overloaded
      UpstreamError        502, 504
        ConnectFailed · UpstreamTimeout · BadReply · StreamBroken (NodeGone)
      StateError           503
        StoreUnavailable · Conflict

A class exists only if someone treats it differently; the rest are fields.
Errors are raised where they happen, translated once at each boundary
(`backends/` and `wire/connection.py` on the way in, `api/errors.py` on the way
out) and never swallowed in between. This file knows nobody.
"""

from collections.abc import Mapping, Sequence


class WrapError(Exception):
    """Anything of ours that went wrong.

    `status` is the HTTP status, `code` the UPPER_SNAKE code of our own routes,
    `retry_after` whole seconds or None, `details` facts for the caller.
    """

    status = 500
    code = "INTERNAL"
    retry_after: int | None = None
    details: Mapping[str, object] = {}

    def __init__(
        self,
        text: str,
        *,
        status: int | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(text)
        self.text = text
        if status is not None:
            self.status = status
        if code is not None:
            self.code = code
        if retry_after is not None:
            self.retry_after = retry_after
        if details is not None:
            self.details = details


class ConfigError(WrapError):
    """Bad settings, all of them at once; the process ends with exit code 78."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class CallerError(WrapError):
    """The caller has to change something."""

    status = 400
    code = "BAD_REQUEST"


class BadCall(CallerError):
    """The request cannot be understood."""


class Unauthorized(CallerError):
    """A credential is missing or wrong."""

    status = 401
    code = "UNAUTHORIZED"


class Forbidden(CallerError):
    """Refused, whoever asks again with the same rights; the text names the setting."""

    status = 403
    code = "FORBIDDEN"


class LimitReached(CallerError):
    """A rate or quota of this caller is used up."""

    status = 429
    code = "RATE_LIMITED"


class ModelUnknown(CallerError):
    """No node is known to hold the model."""

    status = 404
    code = "MODEL_NOT_FOUND"


class Unavailable(WrapError):
    """Nothing can answer now; the next responder is tried."""

    status = 503
    code = "NO_NODES"
    retry_after = 1


class NoUpstream(Unavailable):
    """There was nobody to ask."""


class AttemptsFailed(Unavailable):
    """Nodes were asked and none answered; `attempts` are (node id, outcome word) in order."""

    def __init__(
        self, text: str, attempts: Sequence[tuple[str, str]], *, status: int = 503
    ) -> None:
        super().__init__(text, status=status)
        self.attempts = tuple(attempts)
        #: the Reply of a node that did answer, though it is no success
        self.answer: object | None = None


class Overloaded(Unavailable):
    """This process has too much in hand."""

    code = "UNHEALTHY"


class UpstreamError(WrapError):
    """A node failed at its job; `sent` says whether any byte of the request had gone out."""

    status = 502
    code = "UNHEALTHY"
    sent = True


class ConnectFailed(UpstreamError):
    """No connection could be made: refused, unreachable, or TLS failed."""

    sent = False


class UpstreamTimeout(UpstreamError):
    """A limit passed; `sent` is False for the connect timeout."""

    status = 504
    code = "TIMEOUT"


class BadReply(UpstreamError):
    """What came back is not HTTP, or breaks its own framing."""


class StreamBroken(UpstreamError):
    """The connection ended before the reply did."""


class NodeGone(StreamBroken):
    """Nobody ended the connection: probes cannot reach the node any more."""


class StateError(WrapError):
    """Shared or stored facts could not be read or written."""

    status = 503
    code = "STATE_UNAVAILABLE"


class StoreUnavailable(StateError):
    """The store does not answer."""


class Conflict(StateError):
    """The stored value was not the expected one."""

    status = 409
    code = "CONFLICT"
