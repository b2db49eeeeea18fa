"""What holds of the repository as a whole: sizes, doors, the mirror of tests, written files."""

import ast
import io
import re
import statistics
import tokenize
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import grimp
import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from pydantic.fields import FieldInfo

from ollama_wrap.cli.settings import env_example, settings_page
from ollama_wrap.config import Settings, rows
from ollama_wrap.config.groups import Group

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ollama_wrap"
TESTS = ROOT / "tests"

Function = ast.FunctionDef | ast.AsyncFunctionDef

# One door per dependency: which files may use a module or a name. `testing/` is a program apart.
DOORS = {
    "asyncio.create_task": ("tasks.py",),
    "asyncio.ensure_future": ("tasks.py",),
    "httptools": ("wire/",),
    "httpx": (),
    "httpx2": ("backends/", "cli/client.py"),
    "jwt": ("access/tokens.py",),
    "os.environ": ("config/",),
    "os.getenv": (),
    "prometheus_client": ("observe/metrics.py",),
    "redis": ("state/redis.py",),
    "signal": ("lifecycle.py",),
    "sqlite3": ("state/sqlite.py",),
    "starlette": ("api/", "app.py"),
    "time": ("clock.py",),
    "uvicorn": ("cli/serve.py", "wire/inbound.py"),
    "zstandard": ("dialects/body.py",),
}

# Modules whose tests are elsewhere, each with the place that has them.
TESTED_ELSEWHERE = {
    "__main__.py": "the command is started by tests/wire",
    "cli/demo.py": "run whole, in tests/flow",
    "cli/listeners.py": "tests/wire/test_serve.py, on real ports",
    "cli/neighbour.py": "tests/wire/test_serve.py, with real neighbours",
    "cli/stage.py": "what the demo stands on, in tests/flow/test_demo.py",
    "cli/exits.py": "an enum of codes, seen in tests/unit/cli/test_cli.py",
    "cli/serve.py": "started as a process, in tests/wire",
    "proxy/attempt.py": "tests/flow, at fake nodes on real sockets",
    "proxy/responders/local.py": "tests/flow, at a fake node on a real socket",
    "proxy/responders/ranked.py": "tests/flow, at fake nodes on real sockets",
    "routing/policies/": "tests/contract/test_policy.py, every policy a parameter",
    "state/": "tests/contract/test_store.py and test_bus.py, every store a parameter",
    "testing/": "tests/contract/test_fake_ollama.py, against recordings",
    "wire/": "tests/wire, on real sockets",
}

UNUSED_WORDS = {"manager", "handler", "helper", "util", "utils", "service", "processor"}
UNUSED_WORDS |= {"engine", "data", "info"}
# Methods that a contract from outside calls so: asyncio.Protocol, every logger.
NAMES_OF_OTHERS = {"data_received", "info"}

FOREIGN = re.compile(
    r"(?<![\w.])/(?:work|root)/"
    r"|files\.pythonhosted|pypi\.org|registry\.npmjs|deb\.debian|proxy\.golang"
)
TOP = (
    *("pyproject.toml", "Makefile", "README.md", "env.example", "ollama_wrap", "tests", "docs"),
    *("examples", "benchmarks", "deploy", "requirements", ".ci", ".gitignore"),
)


@dataclass(frozen=True, slots=True)
class Source:
    """One file of Python, read once."""

    name: str
    text: str
    tree: ast.Module

    @property
    def lines(self) -> int:
        return self.text.count("\n")

    def functions(self) -> Iterator[Function]:
        for node in ast.walk(self.tree):
            if isinstance(node, Function):
                yield node


@cache
def sources(folder: Path = PACKAGE) -> tuple[Source, ...]:
    found = []
    for path in sorted(folder.rglob("*.py")):
        text = path.read_text("utf-8")
        found.append(
            Source(path.relative_to(folder).as_posix(), text, ast.parse(text, path.as_posix()))
        )
    return tuple(found)


def functions() -> list[tuple[str, Function]]:
    return [
        (f"{source.name}:{function.lineno} {function.name}", function)
        for source in sources()
        for function in source.functions()
    ]


def size(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def parameters(function: Function) -> list[ast.arg]:
    given = function.args
    rest = [one for one in (given.vararg, given.kwarg) if one is not None]
    return [
        one
        for one in (*given.posonlyargs, *given.args, *given.kwonlyargs, *rest)
        if one.arg not in {"self", "cls"}
    ]


# ---------------------------------------------------------------- budgets


def test_no_file_is_longer_than_400_lines() -> None:
    assert {one.name: one.lines for one in sources() if one.lines > 400} == {}


def test_half_of_the_files_have_at_most_120_lines() -> None:
    assert statistics.median(one.lines for one in sources()) <= 120


def test_no_function_is_longer_than_60_lines() -> None:
    assert {name: size(one) for name, one in functions() if size(one) > 60} == {}


def test_functions_are_short() -> None:
    sizes = sorted(size(one) for _, one in functions())

    assert statistics.median(sizes) <= 8
    assert sizes[len(sizes) * 9 // 10] <= 30


def test_no_function_takes_more_than_6_parameters() -> None:
    many = {name: len(parameters(one)) for name, one in functions()}

    assert {name: count for name, count in many.items() if count > 6} == {}


def test_every_function_is_annotated() -> None:
    bare = [
        name
        for name, one in functions()
        if one.returns is None or any(arg.annotation is None for arg in parameters(one))
    ]

    assert bare == []


def test_comments_and_docstrings_are_neither_missing_nor_the_most() -> None:
    lines = sum(one.lines for one in sources())
    comments = sum(map(comment_lines, sources())) / lines
    docstrings = sum(map(docstring_lines, sources())) / lines

    assert 0.08 <= docstrings <= 0.20
    assert 0.03 <= comments <= 0.08


def comment_lines(source: Source) -> int:
    tokens = tokenize.generate_tokens(io.StringIO(source.text).readline)
    return sum(1 for one in tokens if one.type == tokenize.COMMENT and one.line.lstrip()[0] == "#")


def docstring_lines(source: Source) -> int:
    total = 0
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Module | ast.ClassDef | Function):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                total += (first.end_lineno or first.lineno) - first.lineno + 1
    return total


def test_ignored_type_errors_are_few_and_named() -> None:
    ignored = [
        found
        for one in sources()
        for found in re.findall(r"# type: ignore(\[[a-z-]+\])?", one.text)
    ]

    assert all(ignored)
    assert len(ignored) <= 3 * sum(one.lines for one in sources()) / 1000


def test_there_is_more_test_than_code() -> None:
    tests = sum(one.lines for one in sources(TESTS))

    assert tests >= 1.2 * sum(one.lines for one in sources())


def test_every_module_says_what_it_owns() -> None:
    silent = [one.name for one in sources() if one.text and ast.get_docstring(one.tree) is None]

    assert silent == []


def test_words_that_mean_nothing_are_not_used_in_names() -> None:
    named = [(one.name, Path(one.name).stem) for one in sources()]
    named += [
        (one.name, node.name)
        for one in sources()
        for node in ast.walk(one.tree)
        if isinstance(node, Function | ast.ClassDef)
    ]
    used = [
        (where, name)
        for where, name in named
        if name not in NAMES_OF_OTHERS and UNUSED_WORDS & words(name)
    ]

    assert used == []


def words(name: str) -> set[str]:
    return set(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().split("_"))


# ---------------------------------------------------------------- who knows whom


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = grimp.build_graph("ollama_wrap", cache_dir=None, exclude_type_checking_imports=True)
    # The root's own names are loaded on demand, so asking it for the version closes no circle.
    graph.remove_module("ollama_wrap")
    knows = {
        module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules
    }

    while leaves := [module for module, below in knows.items() if not below & knows.keys()]:
        for leaf in leaves:
            del knows[leaf]

    assert sorted(knows) == []


@pytest.mark.parametrize("door", DOORS)
def test_only_one_room_knows_a_dependency(door: str) -> None:
    outside = [
        source.name
        for source in sources()
        if not source.name.startswith((*DOORS[door], "testing/")) and door in used_names(source)
    ]

    assert outside == []


@cache
def used_names(source: Source) -> frozenset[str]:
    """Imported modules with all above them, and `module.name` where it is written so."""
    imported: set[str] = set()
    written: set[str] = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            written.add(f"{node.value.id}.{node.attr}")
    return frozenset(written | {above for name in imported for above in prefixes(name)})


def prefixes(dotted: str) -> Iterator[str]:
    steps = dotted.split(".")
    return (".".join(steps[:end]) for end in range(1, len(steps) + 1))


def test_the_fake_knows_nothing_of_the_package() -> None:
    rooms = {
        name
        for one in sources(PACKAGE / "testing")
        for name in used_names(one)
        if name.startswith("ollama_wrap.") and not f"{name}.".startswith("ollama_wrap.testing.")
    }

    assert rooms == set()


def test_no_room_knows_the_fake() -> None:
    knowing = [
        one.name
        for one in sources()
        if not one.name.startswith("testing/") and "ollama_wrap.testing" in used_names(one)
    ]

    assert knowing == []


def test_nothing_of_ours_is_mocked() -> None:
    mocks = [one.name for one in sources(TESTS) if "unittest.mock" in used_names(one)]

    assert mocks == []


# ---------------------------------------------------------------- the mirror


def test_every_module_has_its_tests() -> None:
    missing = [
        one.name
        for one in sources()
        if has_code(one)
        and not one.name.startswith(tuple(TESTED_ELSEWHERE))
        and not mirrored(one.name).is_file()
    ]

    assert missing == []


def has_code(source: Source) -> bool:
    """Contracts, enums and bare values need no test file of their own."""
    return any(
        not isinstance(statement, ast.Expr | ast.Pass)
        for function in source.functions()
        for statement in function.body
    )


def mirrored(name: str) -> Path:
    path = Path(name)
    stem = (path.parent.name or "package") if path.stem == "__init__" else path.stem
    return TESTS / "unit" / path.parent / f"test_{stem}.py"


def test_every_test_says_what_should_happen() -> None:
    short = [
        f"{one.name} {function.name}"
        for one in sources(TESTS)
        for function in one.functions()
        if function.name.startswith("test_") and function.name.count("_") < 3
    ]

    assert short == []


# ---------------------------------------------------------------- files that follow from others


# Both are written anew by `make written`.


def test_env_example_is_what_the_program_writes() -> None:
    assert (ROOT / "env.example").read_text("utf-8") == env_example()


def test_settings_page_is_what_the_program_writes() -> None:
    assert (ROOT / "docs/settings.md").read_text("utf-8") == settings_page()


# ---------------------------------------------------------------- settings


def test_every_setting_is_obeyed_or_marked_as_unused() -> None:
    read = [one for one in sources() if not one.name.startswith(("config/", "testing/"))]
    obeyed = set().union(*map(settings_read, read))
    # These decide what other settings become, inside `config/`.
    obeyed |= {("config_dir",), ("server", "api_listen")}

    ignored = {row.path for row in rows(Settings) if row.path not in obeyed}

    assert ignored - {row.path for row in rows(Settings) if row.unused} == set()


def settings_read(source: Source) -> set[tuple[str, ...]]:
    """Settings that a file reads: `settings.x`, `….group.x`, `.x` of a group that it imports."""
    tree, fields = source.tree, Settings.model_fields
    groups = {kind.__name__: name for name, one in fields.items() if (kind := group(one))}
    aliases: dict[str, str] = {}
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            aliases |= named(node)
        elif isinstance(node, ast.ImportFrom) and node.module == "ollama_wrap.config.groups":
            imported |= {groups[one.name] for one in node.names}
    read: set[tuple[str, ...]] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            base = node.value
            word = base.attr if isinstance(base, ast.Attribute) else ""
            word = aliases.get(base.id, base.id) if isinstance(base, ast.Name) else word
            read |= {(word, node.attr)} | {(name, node.attr) for name in imported}
            read |= {(node.attr,)} if word == "settings" else set()
    return read


def group(field: FieldInfo) -> type | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Group) else None


def named(assigned: ast.Assign) -> dict[str, str]:
    """`up = settings.upstream`, also several at once: the last word by the new name."""
    target, value = assigned.targets[0], assigned.value
    targets = target.elts if isinstance(target, ast.Tuple) else [target]
    values = value.elts if isinstance(value, ast.Tuple) else [value]
    return {
        one.id: other.attr
        for one, other in zip(targets, values, strict=False)
        if isinstance(one, ast.Name) and isinstance(other, ast.Attribute)
    }


def test_architecture_page_lists_the_rooms_as_they_are_checked() -> None:
    page = (ROOT / "docs/architecture.md").read_text("utf-8")
    listed = page.partition("## Who may import whom")[2].split("```")[1].split("\n")[1:-1]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    (contract,) = project["tool"]["importlinter"]["contracts"]

    checked = [re.sub(r"[()]", "", layer) for layer in contract["layers"]]

    assert [re.split(r" [·│] ", line) for line in listed] == [
        re.split(r" [:|] ", layer) for layer in checked
    ]


def test_links_between_pages_lead_somewhere() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]

    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
        if not (page.parent / target).exists()
    ]

    assert broken == []


def test_every_decision_is_listed() -> None:
    folder = ROOT / "docs/decisions"
    listed = re.findall(r"\]\(([^)]+)\)", (folder / "README.md").read_text("utf-8"))

    assert listed == sorted(one.name for one in folder.glob("[0-9]*.md"))


def minimums() -> dict[str, Requirement]:
    lines = (ROOT / "requirements/minimum.txt").read_text("utf-8").splitlines()
    wanted = [Requirement(line.partition("#")[0].strip()) for line in lines if line[:1].isalpha()]
    return {one.name: one for one in wanted}


@pytest.mark.parametrize("name", minimums())
def test_version_is_new_enough(name: str) -> None:
    pins = (ROOT / "requirements/ci.txt").read_text("utf-8")
    pinned = re.search(rf"^{name}==(\S+)$", pins, re.MULTILINE | re.IGNORECASE)

    assert Version(version(name)) in minimums()[name].specifier
    assert pinned is not None
    assert Version(pinned[1]) in minimums()[name].specifier


def test_ranges_begin_where_it_is_safe() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    safe = minimums()

    unsafe = [
        str(range_)
        for range_ in map(Requirement, project["dependencies"])
        if range_.name in safe
        and not all(Version(low.version) in safe[range_.name].specifier for low in range_.specifier)
    ]

    assert unsafe == []


def test_repository_names_no_machine_and_no_registry() -> None:
    named = [
        f"{path.relative_to(ROOT)}: {found[0]}"
        for path in files()
        if (found := FOREIGN.search(path.read_text("utf-8", errors="replace")))
    ]

    assert named == []


def files() -> Iterator[Path]:
    skipped = {"__pycache__", "node_modules", "data", "build"}
    for top in TOP:
        for path in [ROOT / top, *(ROOT / top).rglob("*")]:
            if path.is_file() and path != Path(__file__) and not skipped & set(path.parts):
                yield path
