import subprocess
import sys

import pytest

import ollama_wrap
from ollama_wrap.app import create_app
from ollama_wrap.config import Settings


def test_public_names_are_there_when_they_are_asked_for() -> None:
    assert ollama_wrap.Settings is Settings
    assert ollama_wrap.create_app is create_app
    assert ollama_wrap.__version__ == "0.1.0"


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ollama_wrap.nothing


def test_import_loads_nothing_else() -> None:
    program = "import ollama_wrap, sys; print([m for m in sys.modules if 'pydantic' in m])"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)

    assert done.stdout.strip() == b"[]"
