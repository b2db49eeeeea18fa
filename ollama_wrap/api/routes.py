"""All routes of ours in one table, and the paths by which the edge knows them.

A path that is not here is stock's.
"""

from starlette.routing import Route

from ollama_wrap.api import admin, distributed, status
from ollama_wrap.api.guards import Door
from ollama_wrap.api.own import Own
from ollama_wrap.api.scopes import Scopes
from ollama_wrap.api.surface import Parts

ROWS = (*distributed.ROWS, *admin.ROWS, *status.ROWS)

#: exact paths of ours
PATHS = frozenset(row.path for row in ROWS if "{" not in row.path)
#: what paths with a name in them begin with
PREFIXES = tuple(sorted({row.path.partition("{")[0] for row in ROWS if "{" in row.path}))


def own_routes(door: Door, scopes: Scopes, parts: Parts) -> list[Route]:
    """The routes of the Starlette application; whatever else it is asked is our 404."""
    return Own(door, scopes, parts).routes(ROWS)
