"""Settings: the groups, the settings that stand alone, and how they are loaded.

`Settings.load` reads every source and says all that is wrong at once. `Settings(...)`
reads nothing: it is made of defaults and of what it is given.
"""

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from ollama_wrap.config import groups, sources
from ollama_wrap.config.settle import settle
from ollama_wrap.config.sources import Found, Given
from ollama_wrap.config.table import Trait, rows, setting
from ollama_wrap.config.values import (
    Certificates,
    Listen,
    Lower,
    Names,
    Networks,
    Origins,
    Size,
    Slots,
    is_loopback,
    node_id_of,
)
from ollama_wrap.errors import ConfigError

ADMIN_TOKEN_LEAST = 8
JWT_SECRET_LEAST = 16
SECRET_GOOD = 32


class Settings(BaseSettings):
    """Everything that can be set; never changed once made.

    `warnings` are sentences for the start. `faults` are settings that could not be used
    and yet must not take Ollama away: log them as errors and stay in mode `local`.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    distributed: bool | None = setting(
        None,
        "Unset: other nodes are used as soon as one is known; true: the same, with a warning "
        "when none is; false: pure pass-through until an admin switches.",
        "OLLAMA_DISTRIBUTED",
        shown="unset",
    )
    standalone: bool = setting(
        "false", "Nothing is sent to any other node, not even a probe.", "OLLAMA_STANDALONE"
    )
    fallback: bool = setting("true", "Whether another candidate may answer.", "OLLAMA_FALLBACK")
    admin_token: SecretStr | None = setting(
        None,
        "Guards /admin/*; shorter than 8 characters: it stays closed.",
        "OLLAMA_ADMIN_TOKEN",
        traits=Trait.SECRET,
    )
    jwt_secret: SecretStr | None = setting(
        None,
        "Signs tokens of /api/v1; shorter than 16 bytes: what needs one stays closed.",
        "OLLAMA_JWT_SECRET",
        traits=Trait.SECRET | Trait.UNUSED,
    )
    cluster_secret: SecretStr | None = setting(
        None, "Authenticates calls between sidecars.", traits=Trait.SECRET | Trait.UNUSED
    )
    origins: Origins = setting(
        "",
        "More allowed origins for CORS, as in stock; stock's own list always stands behind them.",
        "OLLAMA_ORIGINS",
    )
    num_parallel: Slots | None = setting(
        None,
        "Slots of the local Ollama for each loaded model; unset counts as 1.",
        "OLLAMA_NUM_PARALLEL",
        shown="1",
    )
    allowed_hosts: Names = setting("", "More names for the Host check of our own routes; * is all.")
    trusted_proxies: Networks = setting(
        "", "Addresses or networks whose X-Forwarded-For is believed."
    )
    protect: Annotated[Literal["off", "management", "all"], Lower] = setting(
        "off",
        "What takes a caller on loopback or the admin token: off, management (pull, push, create,"
        " copy, delete, blobs, account routes), or all.",
    )
    ca_file: Certificates | None = setting(None, "A CA file for https to nodes.")
    config_dir: Path = setting(
        "ollama_wrap-config",
        "Where node.yaml (this host) and config.yaml (all hosts) are.",
        shown="the platform's folder",
        traits=Trait.FIXED,
    )
    memory_limit: Size = setting(
        "1GiB",
        "Memory we may use, where no control group says less: near it answers are no longer kept,"
        " then new inference is refused; 0 is off.",
    )
    server: groups.Server = groups.Server()
    local: groups.Local = groups.Local()
    nodes: groups.Nodes = groups.Nodes()
    routing: groups.Routing = groups.Routing()
    cache: groups.Cache = groups.Cache()
    state: groups.State = groups.State()
    log: groups.Log = groups.Log()
    cluster: groups.Cluster = groups.Cluster()
    client: groups.Client = groups.Client()
    upstream: groups.Upstream = groups.Upstream()
    retry: groups.Retry = groups.Retry()
    queue: groups.Queue = groups.Queue()
    health: groups.Health = groups.Health()
    circuit: groups.Circuit = groups.Circuit()
    warnings: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is given: `load` asks the other sources, so that no error hides another."""
        return (init_settings,)

    @classmethod
    def load(
        cls,
        environ: Mapping[str, str] | None = None,
        env_file: str | Path | None = None,
        passed: tuple[Listen, ...] = (),
    ) -> Self:
        """Read all sources; raises ConfigError with every problem there is.

        `passed`: sockets that listen already take the place of those that are set.
        """
        table = tuple(rows(cls))
        found = sources.read(table, environ, env_file)
        own_id = Given(node_id_of(socket.gethostname()), "host name")
        found.given.setdefault(("server", "node_id"), []).append(own_id)
        plain = settle(cls, found, {row.path: row for row in table})
        settings = plain.model_copy(update=_completion(plain, found, passed))
        found.problems += _problems(settings)
        found.warnings += _warnings(settings, found)
        if found.problems:
            raise ConfigError(found.problems)
        return settings.model_copy(
            update={"warnings": tuple(found.warnings), "faults": tuple(found.faults)}
        )

    @property
    def admin_closed(self) -> str | None:
        """Why `/admin/*` is closed, as a sentence, or None when it is open to the token."""
        return _closed(self.admin_token, "OLLAMA_ADMIN_TOKEN", ADMIN_TOKEN_LEAST)

    @property
    def tokens_closed(self) -> str | None:
        """Why everything that needs a signed token is closed, or None."""
        return _closed(self.jwt_secret, "OLLAMA_JWT_SECRET", JWT_SECRET_LEAST)


def _completion(settings: Settings, found: Found, passed: tuple[Listen, ...]) -> dict[str, object]:
    """What hangs on other settings: all listeners, and the folders."""
    server, state = settings.server, settings.state
    listen = passed or tuple(dict.fromkeys(server.listen + (server.api_listen or ())))
    if ("state", "dir") not in found.given:
        folder = sources.state_folder(found.environ, listen[0].port)
        state = state.model_copy(update={"dir": folder})
    return {
        "server": server.model_copy(update={"listen": listen}),
        "state": state,
        "config_dir": found.config_dir,
    }


def _problems(settings: Settings) -> list[str]:
    local = urlsplit(settings.local.address)
    return [
        f"OLLAMA_LOCAL_ADDR: {settings.local.address} is our own listener {listen}; move Ollama to "
        "another port, such as 11436, and name that one"
        for listen in settings.server.listen
        if listen.port and listen.reaches(local.hostname or "", local.port or 0)
    ]


def _warnings(settings: Settings, found: Found) -> list[str]:
    short = (
        _short(settings.admin_token, "OLLAMA_ADMIN_TOKEN", ADMIN_TOKEN_LEAST),
        _short(settings.jwt_secret, "OLLAMA_JWT_SECRET", JWT_SECRET_LEAST),
    )
    warnings = [sentence for sentence in short if sentence]
    if settings.protect == "off" and not all(one.loopback for one in settings.server.listen):
        warnings.append(
            "OLLAMA_WRAP_LISTEN is open to other hosts and OLLAMA_WRAP_PROTECT is off: "
            "anybody there may pull and delete models"
        )
    unused = [row for row in rows(Settings) if row.unused and found.given.get(row.path)]
    if unused:
        names = ", ".join(found.given[row.path][0].origin for row in unused)
        warnings.append(f"not used by this version: {names}")
    if settings.distributed and not settings.nodes.text:
        warnings.append("OLLAMA_DISTRIBUTED is true, but no other node is named")
    store = urlsplit(settings.state.store)
    if store.scheme and not store.password:
        warnings.append("OLLAMA_WRAP_STORE has no password: whoever reaches it can change it")
    if store.scheme == "redis" and not is_loopback(store.hostname or ""):
        warnings.append("OLLAMA_WRAP_STORE is plain text over the network; use rediss://")
    return warnings


def _closed(secret: SecretStr | None, name: str, least: int) -> str | None:
    if secret is None:
        return f"{name} is not set; set it to at least {SECRET_GOOD} characters"
    if len(secret.get_secret_value().encode()) < least:
        return f"{name} is shorter than {least} characters; use at least {SECRET_GOOD}"
    return None


def _short(secret: SecretStr | None, name: str, least: int) -> str | None:
    if secret is None or len(secret.get_secret_value().encode()) >= SECRET_GOOD:
        return None
    return _closed(secret, name, least) or f"{name} is short; use at least {SECRET_GOOD} characters"
