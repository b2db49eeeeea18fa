import shutil
from pathlib import Path

from ollama_wrap.cli.exits import Exit
from ollama_wrap.config import Settings
from ollama_wrap.nodes.node import parse_nodes

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_example_of_a_host_is_used_whole(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "node.yaml", tmp_path)

    settings = Settings.load({"HOME": str(tmp_path), "OLLAMA_WRAP_CONFIG_DIR": str(tmp_path)})

    assert (settings.warnings, settings.faults) == ((), ())
    assert settings.cache.ttl == 600
    assert [node.id for node in parse_nodes(settings.nodes.text)] == ["tower", "laptop"]


def test_example_units_go_with_the_defaults_of_the_program() -> None:
    service, listener = (unit(f"ollama-wrap.{end}") for end in ("service", "socket"))
    plain = Settings()

    assert float(service["TimeoutStopSec"]) > plain.server.drain + plain.server.lame_duck
    assert service["RestartPreventExitStatus"] == f"{Exit.UNAVAILABLE:d} {Exit.CONFIG:d}"
    assert service["ExecReload"].split()[1] == "-HUP"
    assert listener["ListenStream"] == str(plain.server.listen[0])


def unit(name: str) -> dict[str, str]:
    lines = (EXAMPLES / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
