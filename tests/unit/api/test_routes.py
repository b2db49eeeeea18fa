from pathlib import Path

import pytest

from ollama_wrap import dialects
from ollama_wrap.api.routes import PATHS, PREFIXES, ROWS
from ollama_wrap.api.surface import Row, Scope

PAGE = (Path(__file__).parents[3] / "docs/api.md").read_text("utf-8")


def test_nothing_of_stock_is_shadowed() -> None:
    taken = [
        (method, path)
        for path in PATHS
        for method in ("GET", "HEAD", "POST", "DELETE")
        if dialects.route(method, path).operation != "other"
    ]

    assert taken == []


def test_every_path_is_known_to_the_edge() -> None:
    unknown = [row.path for row in ROWS if row.path not in PATHS]

    assert PREFIXES == ("/api/distributed/models/", "/api/distributed/requests/")
    assert all(path.startswith(PREFIXES) for path in unknown)


@pytest.mark.parametrize(
    "path",
    [
        "/api/distributed/rebalance",
        "/api/distributed/migrate",
        "/api/distributed/replication/status",
        "/admin/rebalance",
        "/api/v1/nodes",
        "/ws",
    ],
)
def test_surface_that_is_not_built_is_stocks(path: str) -> None:
    assert path not in PATHS
    assert not path.startswith(PREFIXES)


def test_whatever_changes_something_takes_more_than_reading() -> None:
    open_to_readers = {row.path for row in ROWS if row.scope in {Scope.OPEN, Scope.READ}}
    changing = {row.path for row in ROWS if row.method != "GET"}

    assert not open_to_readers & changing


def test_admin_is_behind_the_token_alone() -> None:
    assert {row.path for row in ROWS if row.scope is Scope.ADMIN} == {
        path for path in PATHS if path.startswith("/admin/")
    }


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.method} {row.path}")
def test_route_is_in_the_page_with_its_scope(row: Row) -> None:
    path = row.path.replace(":path", "")

    assert f"| `{row.method} {path}` | {row.scope.value} |" in PAGE
