"""What chaos runs have in common: their options, repetitions and figures.

Without `--chaos` one short repetition of some scenarios is run, which is what `make test` does.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.figures import Run

#: seconds of a repetition: in `make chaos`, in `make test`
FULL, SHORT = 20.0, 6.0
_NAMED = re.compile(r"test_(c\d+)_")
_RUN = pytest.StashKey[Run]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("chaos")
    group.addoption("--chaos", action="store_true", help="all scenarios, with their times")
    group.addoption("--only", default="", help="ids of scenarios: 'C1 C2'")
    group.addoption("--reps", type=int, default=5, help="repetitions")
    group.addoption("--figures", default="", help="the file that gets a line for each run")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "alone: measures times, so nothing else may run")
    config.addinivalue_line("markers", "once: one repetition is all of it")


def _option(config: pytest.Config, name: str, default: object) -> object:
    # Options exist only where this file was read before the command line was.
    return config.getoption(name, default)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "run" not in metafunc.fixturenames:
        return
    repeated = _option(metafunc.config, "--chaos", default=False)
    count = int(str(_option(metafunc.config, "--reps", default=1))) if repeated else 1
    if metafunc.definition.get_closest_marker("once"):
        count = 1
    metafunc.parametrize("repetition", range(1, count + 1))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = str(_option(config, "--only", default="")).split()
    if not wanted:
        return
    kept = [item for item in items if _scenario(item) in wanted]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def _scenario(item: pytest.Item) -> str:
    found = _NAMED.match(item.name)
    return found[1].upper() if found else ""


@pytest.fixture
def run(request: pytest.FixtureRequest, repetition: int) -> Run:
    """The figures of this repetition."""
    full = bool(_option(request.config, "--chaos", default=False))
    name = request.node.originalname
    title = re.sub(r"^test_c\d+_", "", name).replace("_", " ")
    made = Run(_scenario(request.node), title, full, repetition, seconds=FULL if full else SHORT)
    request.node.stash[_RUN] = made
    return made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Hold a scenario to its bars when it is over, and write down what came of it."""
    error = ""
    try:
        yield
    except BaseException as failure:
        error = f"{type(failure).__name__}: {failure}"
        raise
    finally:
        made = item.stash.get(_RUN, None)
        path = str(_option(item.config, "--figures", default=""))
        if made is not None and path:
            made.write(Path(path), error)
    if made is not None and made.missed:
        pytest.fail("\n".join(made.missed), pytrace=False)
