"""The parts of one fake node, and what every handler asks of them.

Owns: reading a body into fields, finding the model that a body names, cloud names and stubs.
Must not know: connections, or what a route answers.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ollama_wrap.testing.errors import Refused
from ollama_wrap.testing.gojson import BadJsonError, bind
from ollama_wrap.testing.ledger import Ledger
from ollama_wrap.testing.names import BadNameError, Name, parse
from ollama_wrap.testing.request import Request
from ollama_wrap.testing.sched import FOREVER, Limits, Scheduler, Wish
from ollama_wrap.testing.script import FAILURES, Script
from ollama_wrap.testing.speech import Voice
from ollama_wrap.testing.store import Model, Store

Fields = Mapping[str, str]
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9]*\.?[0-9]+)(ns|us|µs|ms|s|m|h)")
_INTEGER = (
    "num_keep seed num_predict top_k repeat_last_n num_ctx num_batch num_gpu main_gpu num_thread"
    " draft_num_predict"
)
_FLOAT = "top_p min_p typical_p temperature repeat_penalty presence_penalty frequency_penalty"
#: Options, by the Go type that they must have
_OPTIONS = dict.fromkeys(_INTEGER.split(), "integer") | dict.fromkeys(_FLOAT.split(), "float32")
#: What a runner is loaded with: another value is another load
_RELOADING = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread")


@dataclass(frozen=True, slots=True)
class Options:
    """How a fake node is set up. Times in seconds."""

    version: str = "0.33.0"
    node_name: str = ""
    say: str = "t0 t1 t2 t3 t4"
    token_delay: float = 0.0
    load_delay: float = 0.0
    num_parallel: int = 1
    max_queue: int = 512
    max_loaded: int = 3
    keep_alive: float = 300.0
    origins: tuple[str, ...] = ()
    #: Models that a pull finds; ``*``: any. Those that are here are found too.
    registry: tuple[str, ...] = ()
    signin_url: str = ""
    #: Answer as if bound to an address that is not loopback: no Host check
    public: bool = False
    #: Begin each answer with the last #mark in its request
    echo: bool = False

    @property
    def modern(self) -> bool:
        """Whether layouts are those of v0.33 and not those of v0.24."""
        numbers = [int(part) for part in re.findall(r"\d+", self.version)[:2]]
        return numbers >= [0, 32]


class Daemon:
    """Options, models, scheduler, engine, script and ledger of one fake node."""

    def __init__(self, store: Store, options: Options, die: Callable[[], None]) -> None:
        self.options = options
        self.store = store
        self.script = Script()
        self.ledger = Ledger()
        limits = Limits(
            options.num_parallel,
            options.max_queue,
            options.max_loaded,
            options.keep_alive,
            options.load_delay,
        )
        self.scheduler = Scheduler(limits, self.ledger)
        words = tuple(f" {word}" for word in options.say.split())
        self.voice = Voice(words, options.token_delay, self.scheduler, self.ledger, die)

    def fields(self, request: Request, struct: str, fields: Fields) -> dict[str, object]:
        """Return the body of a native route. Raises Refused."""
        try:
            return bind(request.raw, struct, fields)
        except BadJsonError as error:
            # Stock's sentence for what the decoder calls EOF.
            text = "missing request body" if str(error) == "EOF" else str(error)
            raise Refused(400, text) from None

    def compat_fields(self, request: Request, struct: str, fields: Fields) -> dict[str, object]:
        """Return the body of a /v1 route; a cloud model ends here. Raises Refused."""
        try:
            body = bind(request.raw, struct, fields)
        except BadJsonError as error:
            raise Refused(400, str(error), early=True) from None
        self.refuse_cloud(text_of(body, "model"))
        return body

    def name(self, text: str) -> Name:
        """Return the parts of a name; a cloud name is refused, no account is here."""
        try:
            name = parse(text)
        except BadNameError as error:
            raise Refused(400, str(error)) from None
        if name.source == "cloud":
            raise self.unauthorized()
        return name

    def refuse_cloud(self, text: str) -> None:
        """Raise Refused if the name is one of the cloud."""
        try:
            cloud = parse(text).source == "cloud"
        except BadNameError:
            return
        if cloud:
            raise self.unauthorized()

    def unauthorized(self) -> Refused:
        """Return the refusal of whatever needs an account."""
        url = self.options.signin_url
        return Refused(401, "unauthorized", native=True, more={"signin_url": url} if url else {})

    def runnable(self, text: str, missing: str = "model '{}' not found") -> Model:
        """Return the model to run. Raises Refused: 404 with `missing` filled in, or for a stub."""
        model = self.store.find(self.name(text))
        if model is None:
            raise Refused(404, missing.format(text))
        if model.remote_host:
            raise Refused(400, "this server cannot run this remote model")
        return model

    def wish(self, request: Request, model: Model, body: Mapping[str, object]) -> Wish:
        """Return what the scheduler is to give: options and keep-alive of a body, and the rule."""
        options = body.get("options")
        return Wish(
            model,
            keep_alive(body.get("keep_alive")),
            _reloading(options if isinstance(options, dict) else {}, body.get("shift")),
            request.rule.load_delay,
            FAILURES.get(request.rule.failure),
        )


def text_of(body: Mapping[str, object], *names: str) -> str:
    """Return the first of the fields that is not empty, as text."""
    return next((str(body[name]) for name in names if body.get(name)), "")


def keep_alive(value: object) -> float | None:
    """Return seconds; None: not given. Raises Refused for what Go cannot read."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        # Go names the type that it decoded into an empty interface.
        kind = {bool: "bool", list: "[]interface {}"}.get(type(value), "map[string]interface {}")
        raise Refused(400, f"Unsupported type: '{kind}'")
    seconds = _go_duration(value) if isinstance(value, str) else float(value)
    return FOREVER if seconds < 0 else min(seconds, FOREVER)


def _go_duration(text: str) -> float:
    sign = -1.0 if text.startswith("-") else 1.0
    bare = text[1:] if text[:1] in {"-", "+"} else text
    # The one number that Go takes without a unit.
    if bare == "0":
        return 0.0
    parts = _DURATION.findall(bare)
    if not parts or "".join(number + unit for number, unit in parts) != bare:
        if re.fullmatch(r"[0-9]*\.?[0-9]+", bare):
            raise Refused(400, f'time: missing unit in duration "{text}"')
        raise Refused(400, f'time: invalid duration "{text}"')
    return sign * sum(float(number) * _UNITS[unit] for number, unit in parts)


def _reloading(options: Mapping[str, object], shift: object) -> tuple[tuple[str, str], ...]:
    """Return the options that a runner is loaded with, checked. Raises Refused."""
    for name, value in options.items():
        wanted = _OPTIONS.get(name)
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
        if wanted is not None and not good:
            raise Refused(500, f'option "{name}" must be of type {wanted}')
        if name == "stop" and not isinstance(value, list):
            raise Refused(500, 'option "stop" must be of type array')
    given = [(name, str(options[name])) for name in _RELOADING if name in options]
    return (*given, ("shift", str(shift))) if shift is False else tuple(given)
