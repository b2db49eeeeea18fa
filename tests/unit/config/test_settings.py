from pathlib import Path

import pytest
from pydantic import ValidationError

from ollama_wrap.config import Listen, Settings
from ollama_wrap.errors import ConfigError


def load(folder: Path, **environ: str) -> Settings:
    return Settings.load({"OLLAMA_WRAP_CONFIG_DIR": str(folder), "HOME": "/home/me", **environ})


def test_nothing_set_listens_where_clients_expect_ollama(tmp_path: Path) -> None:
    settings = load(tmp_path)

    assert settings.server.listen == (Listen("127.0.0.1", 11434),)
    assert settings.local.address == "http://127.0.0.1:11436"
    assert settings.distributed is None
    assert (settings.routing.mode, settings.routing.strategy) == ("local-first", "auto")
    assert settings.num_parallel is None
    assert (settings.warnings, settings.faults) == ((), ())


def test_every_value_reaches_its_field(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        OLLAMA_DISTRIBUTED="false",
        OLLAMA_STANDALONE="1",
        OLLAMA_FALLBACK="off",
        OLLAMA_NUM_PARALLEL="4",
        OLLAMA_API_URL="gpu:11434",
        OLLAMA_WRAP_LOG_LEVEL="DEBUG",
        OLLAMA_WRAP_ROUTING="Balanced",
        OLLAMA_WRAP_NODES="r1=http://r1;slots=4",
        OLLAMA_WRAP_CACHE_MAX_ENTRY="1MiB",
        OLLAMA_WRAP_CLIENT_FIRST_BYTE="250ms",
        OLLAMA_WRAP_ALLOWED_HOSTS="a.example, b.example",
    )

    assert (settings.distributed, settings.standalone, settings.fallback) == (False, True, False)
    assert settings.num_parallel == 4
    assert settings.local.address == "http://gpu:11434"
    assert settings.log.level == "debug"
    assert settings.routing.mode == "balanced"
    assert settings.nodes.text == "r1=http://r1;slots=4"
    assert settings.cache.max_entry == 2**20
    assert settings.client.first_byte == 0.25
    assert settings.allowed_hosts == ("a.example", "b.example")


def test_all_problems_are_said_at_once_each_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "node.yaml").write_text("cache: {max_bytes: big}")

    with pytest.raises(ConfigError) as caught:
        load(
            tmp_path,
            OLLAMA_WRAP_LISTEN="https://box",
            OLLAMA_LOCAL_ADDR="ftp://x",
            OLLAMA_WRAP_PROTECT="some",
            OLLAMA_WRAP_NODE_ID="all",
            OLLAMA_ADMIN_TOKEN_FILE=str(tmp_path / "none"),
        )

    problems = sorted(caught.value.problems)
    assert [one.split("=")[0].split(":")[0] for one in problems] == [
        "OLLAMA_ADMIN_TOKEN_FILE",
        "OLLAMA_LOCAL_ADDR",
        "OLLAMA_WRAP_LISTEN",
        "OLLAMA_WRAP_NODE_ID",
        "OLLAMA_WRAP_PROTECT",
        "node.yaml",
    ]
    assert "such as http://127.0.0.1:11436" in problems[1]
    assert problems[5].startswith("node.yaml: cache.max_bytes='big': write bytes")


@pytest.mark.parametrize(
    "listen,address",
    [
        ("127.0.0.1:11434", "http://127.0.0.1:11434"),
        ("127.0.0.1:11434", "localhost"),
        ("0.0.0.0:11436", "http://127.0.0.1:11436"),
        ("127.0.0.1:1,[::1]:11436", "http://[::1]:11436"),
    ],
)
def test_own_listener_is_no_ollama(tmp_path: Path, listen: str, address: str) -> None:
    with pytest.raises(ConfigError, match="is our own listener"):
        load(tmp_path, OLLAMA_WRAP_LISTEN=listen, OLLAMA_LOCAL_ADDR=address)


def test_own_listener_is_noticed_beside_other_problems(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, OLLAMA_LOCAL_ADDR="127.0.0.1:11434", OLLAMA_WRAP_PROTECT="some")

    assert len(caught.value.problems) == 2


def test_api_listen_adds_a_listener(tmp_path: Path) -> None:
    settings = load(tmp_path, API_LISTEN="127.0.0.1:8080")

    assert [one.port for one in settings.server.listen] == [11434, 8080]


def test_state_folder_ends_in_the_first_port_unless_it_is_named(tmp_path: Path) -> None:
    own = load(tmp_path, OLLAMA_WRAP_LISTEN=":9999,:1", OLLAMA_WRAP_PROTECT="all")
    named = load(tmp_path, OLLAMA_WRAP_STATE_DIR="/somewhere")

    assert own.state.dir.parts[-2:] == ("ollama_wrap", "9999")
    assert named.state.dir == Path("/somewhere")


def test_generic_name_with_a_value_for_others_is_a_warning(tmp_path: Path) -> None:
    settings = load(tmp_path, LOG_LEVEL="verbose", NODE_ID="my node", BOOTSTRAP="10.0.0.1:9000")

    assert settings.log.level == "info"
    assert not settings.cluster.bootstrap
    named = {one.split("=")[0] for one in settings.warnings}
    assert named == {"NODE_ID", "BOOTSTRAP", "LOG_LEVEL"}


def test_value_behind_a_useless_generic_one_holds(tmp_path: Path) -> None:
    (tmp_path / "node.yaml").write_text("log: {level: error}")

    settings = load(tmp_path, LOG_LEVEL="verbose")

    assert settings.log.level == "error"


def test_our_own_name_wins_over_the_generic_one(tmp_path: Path) -> None:
    settings = load(tmp_path, NODE_ID="my node", OLLAMA_WRAP_NODE_ID="tower")

    assert settings.server.node_id == "tower"
    assert settings.warnings == ()


def test_bad_store_is_a_fault_and_keeps_its_password(tmp_path: Path) -> None:
    settings = load(tmp_path, OLLAMA_WRAP_STORE="mysql://me:hush@db")

    assert settings.state.store == "sqlite"
    assert len(settings.faults) == 1
    assert "hush" not in settings.faults[0]
    assert settings.faults[0].startswith("OLLAMA_WRAP_STORE: write sqlite")


def test_nodes_in_yaml_become_json_text(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("nodes: [{url: 'http://r1', slots: 4}]")

    settings = load(tmp_path)

    assert settings.nodes.text == '[{"url": "http://r1", "slots": 4}]'


@pytest.mark.parametrize(
    "environ,warning",
    [
        ({"OLLAMA_ADMIN_TOKEN": "short"}, "OLLAMA_ADMIN_TOKEN is shorter than 8"),
        ({"OLLAMA_ADMIN_TOKEN": "x" * 31}, "OLLAMA_ADMIN_TOKEN is short;"),
        ({"OLLAMA_WRAP_LISTEN": "0.0.0.0:11434"}, "OLLAMA_WRAP_LISTEN is open to other hosts"),
        ({"RAFT_BIND_ADDR": "0.0.0.0:7000"}, "not used by this version: RAFT_BIND_ADDR"),
        ({"OLLAMA_DISTRIBUTED": "true"}, "OLLAMA_DISTRIBUTED is true, but"),
        ({"OLLAMA_WRAP_STORE": "rediss://db/0"}, "OLLAMA_WRAP_STORE has no password"),
        ({"OLLAMA_WRAP_STORE": "redis://:pw@db/0"}, "OLLAMA_WRAP_STORE is plain text"),
    ],
)
def test_what_works_but_should_not_stay_is_a_warning(
    tmp_path: Path, environ: dict[str, str], warning: str
) -> None:
    settings = load(tmp_path, **environ)

    assert len(settings.warnings) == 1
    assert settings.warnings[0].startswith(warning)


def test_short_secret_is_said_although_nothing_uses_it_yet(tmp_path: Path) -> None:
    settings = load(tmp_path, OLLAMA_JWT_SECRET="x" * 15)

    short, unused = settings.warnings
    assert short.startswith("OLLAMA_JWT_SECRET is shorter than 16")
    assert unused == "not used by this version: OLLAMA_JWT_SECRET"


@pytest.mark.parametrize(
    "environ",
    [
        {"OLLAMA_ADMIN_TOKEN": "x" * 32},
        {"OLLAMA_WRAP_LISTEN": "0.0.0.0:11434", "OLLAMA_WRAP_PROTECT": "management"},
        {"OLLAMA_WRAP_STORE": "redis://:pw@127.0.0.1/0"},
        {"OLLAMA_DISTRIBUTED": "true", "OLLAMA_WRAP_NODES": "r1"},
    ],
)
def test_what_is_as_it_should_be_is_none(tmp_path: Path, environ: dict[str, str]) -> None:
    assert load(tmp_path, **environ).warnings == ()


def test_admin_routes_say_why_they_are_closed(tmp_path: Path) -> None:
    closed = load(tmp_path).admin_closed
    short = load(tmp_path, OLLAMA_ADMIN_TOKEN="1234567").admin_closed

    assert closed == "OLLAMA_ADMIN_TOKEN is not set; set it to at least 32 characters"
    assert short == "OLLAMA_ADMIN_TOKEN is shorter than 8 characters; use at least 32"
    assert load(tmp_path, OLLAMA_ADMIN_TOKEN="12345678").admin_closed is None
    assert load(tmp_path, OLLAMA_JWT_SECRET="x" * 16).tokens_closed is None


def test_secrets_are_in_no_repr(tmp_path: Path) -> None:
    settings = load(tmp_path, OLLAMA_ADMIN_TOKEN="hush" * 9, OLLAMA_WRAP_NODES="r1;header=A:hush")

    assert "hush" not in repr(settings)


def test_zero_slots_are_none_declared(tmp_path: Path) -> None:
    assert load(tmp_path, OLLAMA_NUM_PARALLEL="0").num_parallel is None


def test_settings_made_by_hand_read_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_FALLBACK", "false")
    monkeypatch.setenv("OLLAMA_WRAP_CACHE_TTL", "1")

    settings = Settings(standalone=True)

    assert (settings.fallback, settings.standalone, settings.cache.ttl) == (True, True, 300)


def test_load_without_a_mapping_reads_the_process_and_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("OLLAMA_WRAP_CACHE_TTL=2\nOLLAMA_FALLBACK=true")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OLLAMA_WRAP_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("OLLAMA_FALLBACK", "false")

    settings = Settings.load()

    assert (settings.cache.ttl, settings.fallback) == (2, False)


def test_settings_never_change() -> None:
    settings = Settings()

    with pytest.raises(ValidationError):
        settings.cache.ttl = 1  # type: ignore[misc]
