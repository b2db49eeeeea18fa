import shutil
from pathlib import Path

from ollama_wrap.config import Settings
from ollama_wrap.nodes.node import parse_nodes

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_example_of_a_host_is_used_whole(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "node.yaml", tmp_path)

    settings = Settings.load({"HOME": str(tmp_path), "OLLAMA_WRAP_CONFIG_DIR": str(tmp_path)})

    assert (settings.warnings, settings.faults) == ((), ())
    assert settings.cache.ttl == 600
    assert [node.id for node in parse_nodes(settings.nodes.text)] == ["tower", "laptop"]
