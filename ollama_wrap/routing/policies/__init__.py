"""Every routing policy, by the name that `OLLAMA_WRAP_STRATEGY` takes."""

import importlib
from collections.abc import Callable, Mapping
from random import Random

from ollama_wrap.errors import ConfigError
from ollama_wrap.routing.policies.auto import Auto
from ollama_wrap.routing.policies.base import Policy
from ollama_wrap.routing.policies.least_busy import LeastBusy
from ollama_wrap.routing.policies.least_latency import LeastLatency
from ollama_wrap.routing.policies.random import Shuffled
from ollama_wrap.routing.policies.round_robin import RoundRobin
from ollama_wrap.routing.policies.two_choices import TwoChoices
from ollama_wrap.routing.policies.weighted import Weighted

POLICIES: Mapping[str, Callable[[Random], Policy]] = {
    Auto.name: Auto,
    LeastBusy.name: LeastBusy,
    RoundRobin.name: RoundRobin,
    Weighted.name: Weighted,
    LeastLatency.name: LeastLatency,
    TwoChoices.name: TwoChoices,
    Shuffled.name: Shuffled,
}


def load(name: str, dice: Random) -> Policy:
    """A policy by its name, or by `module:Class` from outside. Raises ConfigError."""
    make = POLICIES.get(name)
    if make is not None:
        return make(dice)
    module, colon, attribute = name.partition(":")
    if not colon:
        raise _wrong(name, f"there are {', '.join(POLICIES)}, or module:Class")
    try:
        policy: Policy = getattr(importlib.import_module(module), attribute)(dice)
    except Exception as error:
        raise _wrong(name, str(error)) from error
    if not callable(getattr(policy, "rank", None)):
        raise _wrong(name, "it has no rank(call, candidates)")
    return policy


def _wrong(name: str, why: str) -> ConfigError:
    return ConfigError([f"OLLAMA_WRAP_STRATEGY: {name!r}: {why}"])
