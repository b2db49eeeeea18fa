"""Model names; the expected values were printed by stock's ParseRef and ParseName."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_wrap.nodes.names import canonical, is_cloud, short

TINY = "registry.ollama.ai/library/tiny:latest"


@pytest.mark.parametrize(
    "name",
    [
        "tiny",
        "TINY",
        "tiny:latest",
        " tiny\n",
        "\u00a0tiny\u2028",
        "library/tiny",
        "Library/Tiny:LATEST",
        "registry.ollama.ai/library/tiny",
        "https://registry.ollama.ai/library/tiny:latest",
        "http://registry.ollama.ai/library/tiny",
        "x://registry.ollama.ai/library/tiny",
        "https:///library/tiny",
        "tiny:local",
        "tiny:LOCAL",
        "tiny:latest:local",
        "tiny: local ",
    ],
)
def test_spellings_of_one_model_are_one_name(name: str) -> None:
    assert canonical(name) == TINY
    assert not is_cloud(name)


@pytest.mark.parametrize(
    "name,expected",
    [
        ("me/x", "registry.ollama.ai/me/x:latest"),
        ("ollama.com/library/x", "ollama.com/library/x:latest"),
        ("host:5000/me/x:8b-Q4_0", "host:5000/me/x:8b-q4_0"),
        ("library/library/m", "library/library/m:latest"),
        ("_x", "registry.ollama.ai/library/_x:latest"),
        ("a" * 80, f"registry.ollama.ai/library/{'a' * 80}:latest"),
        (f"{'h' * 350}/n/m", f"{'h' * 350}/n/m:latest"),
    ],
)
def test_other_models_have_names_of_their_own(name: str, expected: str) -> None:
    assert canonical(name) == expected


@pytest.mark.parametrize(
    "name",
    ["", " ", ":", "/", "a b", "../x", "x@sha256:ab", "x:", ":x", "/x", "x/", "//x", "a//b",
     "a/b/c/d", "http://h/x", "-x", ".x", "a.b/x", "x\x00", "\x1cx", "é", "x:é", "\u212a",
     "a" * 81, "x:" + "a" * 81, "n" * 81 + "/x", "h" * 351 + "/n/m", "x" * 5000,
     "x:local:cloud", "x:cloud:local", "x:8b-cloud:cloud", ":cloud", "x:-cloud"],
)  # fmt: skip
def test_malformed_names_have_none(name: str) -> None:
    assert canonical(name) is None


@pytest.mark.parametrize(
    "name,base",
    [
        ("x:cloud", "x:latest"),
        ("x:CLOUD", "x:latest"),
        ("x:8b:cloud", "x:8b"),
        ("x:120b-cloud", "x:120b"),
        ("me/x:120b-Cloud", "me/x:120b"),
        (" x:cloud ", "x:latest"),
    ],
)
def test_cloud_names_are_known_by_their_suffix(name: str, base: str) -> None:
    key = canonical(name)

    assert is_cloud(name)
    assert key is not None
    assert short(key) == base


@pytest.mark.parametrize(
    "name", ["cloud", "x-cloud", "cloud/x", "x:cloudy", "x:local", "x:a-cloud/b", "x:local:cloud"]
)
def test_other_names_do_not_mean_the_cloud(name: str) -> None:
    assert not is_cloud(name)


@pytest.mark.parametrize(
    "name,expected",
    [
        ("tiny", "tiny:latest"),
        ("Me/X:1", "me/x:1"),
        ("ollama.com/library/x", "ollama.com/library/x:latest"),
        ("library/library/m", "library/library/m:latest"),
    ],
)
def test_short_names_are_those_that_stock_shows(name: str, expected: str) -> None:
    key = canonical(name)

    assert key is not None
    assert short(key) == expected


@given(st.text(alphabet="aB1._-:/@ \t!é", max_size=30))
def test_canonical_names_are_their_own_name(name: str) -> None:
    key = canonical(name)

    if key is not None and not is_cloud(key) and not key.endswith(":local"):
        assert canonical(key) == key
        assert canonical(short(key)) == key
