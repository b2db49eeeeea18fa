"""The tests: which load is sent, and what is read from what came back.

A cell is one test with one candidate, once: a flat dict, one line of the raw
results. Times of the load generator are microseconds.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from candidates import LOCAL

Cell = dict[str, Any]
Read = Callable[[Cell], float]

GENERATE = json.dumps(
    {
        "model": "llama3.2:1b",
        "prompt": "Why is the sky blue?",
        "stream": False,
        "options": {"temperature": 0.7, "num_ctx": 4096},
    },
    separators=(",", ":"),
)
EMBED = '{"model":"all-minilm","input":"x"}'
#: bytes that an answer of these tests must have
SIZES = {"gen16": 981, "gen64": 981, "rate500": 981, "embed4": 300015}


@dataclass(frozen=True, slots=True)
class Metric:
    """One column; `limited`: a throughput, which the cores of others can limit as well."""

    title: str
    read: Read
    limited: bool = False


@dataclass(frozen=True, slots=True)
class Test:
    """`load`: arguments of the load generator; empty: `special.py` knows what to do.

    `only`: the candidates it makes sense with. `fresh`: on a process of its own.
    """

    load: tuple[str, ...]
    metrics: tuple[Metric, ...]
    only: tuple[str, ...] = ()
    fresh: bool = False
    quiet: bool = True
    """Repeated when others used the cores meanwhile."""


def _per_request(cell: Cell) -> float:
    return cell["cpu"] / cell["done_all"] * 1e6


def _per_line(cell: Cell) -> float:
    return cell["cpu"] / cell["lines_all"] * 1e6


def _core(cell: Cell) -> float:
    return cell["cpu"] / cell["wall"] * 100


def _of(key: str, factor: float = 1) -> Read:
    return lambda cell: cell[key] * factor


def _growth(cell: Cell) -> float:
    return (cell.get("peak_kib", 0) - cell.get("before_kib", 0)) / 1024


CORE = Metric("core %", _core)
P50, P99 = Metric("p50 us", _of("p50")), Metric("p99 us", _of("p99"))
CPU = Metric("cpu us/req", _per_request)
REQUESTS = (Metric("req/s", _of("rps"), limited=True), P50, P99, CPU, CORE)
LINES = (
    Metric("lines/s", _of("lines_per_s"), limited=True),
    Metric("cpu us/line", _per_line),
    CORE,
)
PACED = (
    Metric("first p50 us", _of("ttft_p50")),
    Metric("first p99 us", _of("ttft_p99")),
    Metric("line p50 us", _of("line_p50")),
    Metric("line p99 us", _of("line_p99")),
    Metric("cpu us/line", _per_line),
    CORE,
    Metric("lines/s", _of("lines_per_s")),
)
UPLOAD = (
    Metric("MB/s", _of("MB_per_s"), limited=True),
    Metric("cpu s", _of("cpu")),
    Metric("memory +MiB", _growth),
    CORE,
)
IDLE = (
    Metric("KiB/stream", _of("kib_per_stream")),
    Metric("before MiB", _of("before_kib", 1 / 1024)),
    CORE,
)

_SMALL = ("-w", "0.4", "-t", "2")
_POST = ("-u", "/api/generate", "-b", GENERATE)
_OURS = ("wrap-distributed",)
_SPREAD = ("-n", "50", "-i", "20000", "-I", "50000")

TESTS: Mapping[str, Test] = {
    "rps1": Test(("rps", "-c", "1", *_SMALL), REQUESTS),
    "rps16": Test(("rps", "-c", "16", *_SMALL), REQUESTS),
    "rps64": Test(("rps", "-c", "64", *_SMALL), REQUESTS),
    "gen16": Test(("rps", "-c", "16", *_POST, *_SMALL), REQUESTS),
    "gen64": Test(("rps", "-c", "64", *_POST, *_SMALL), REQUESTS),
    "rate500": Test(("rps", "-c", "16", "-r", "500", *_POST, *_SMALL), (P50, P99, CPU, CORE)),
    "burst1": Test(("stream", "-c", "1", "-n", "1000", *_SMALL), LINES),
    "burst64": Test(("stream", "-c", "64", "-n", "500", *_SMALL), LINES),
    "burst256": Test(("stream", "-c", "256", "-n", "250", "-w", "1", "-t", "4"), LINES),
    "paced64": Test(("stream", "-c", "64", *_SPREAD, *"-s 1000 -w 1.5 -t 5".split()), PACED),
    "paced256": Test(("stream", "-c", "256", *_SPREAD, *"-s 1500 -w 2 -t 6".split()), PACED),
    "embed4": Test(("rps", "-c", "4", "-u", "/api/embed", "-b", EMBED, *_SMALL), REQUESTS),
    "upload": Test(("upload", "-z", "1000000000"), UPLOAD),
    "upload-chunked": Test(("upload", "-z", "1000000000", "-k", "1"), UPLOAD),
    "upload200": Test(("upload", "-z", "200000000"), UPLOAD, only=_OURS, fresh=True),
    "cancel": Test(("cancel", "-k", "25"), (P50, P99), quiet=False),
    "cancel-early": Test(("cancel", "-k", "10", "-w", "1"), (P50, P99), quiet=False),
    "idle": Test(
        ("stream", "-c", "1000", "-n", "100000", "-i", "5000000", "-s", "3000", "-t", "12"),
        IDLE,
        fresh=True,
        quiet=False,
    ),
    "rest": Test((), (Metric("MiB", _of("rest_kib", 1 / 1024)),), only=_OURS, fresh=True),
    "tags": Test(
        (),
        (P50, P99, Metric("max us", _of("max"))),
        only=("wrap-distributed", "wrap-dead-node", "direct"),
        quiet=False,
    ),
    "pause": Test(
        (),
        (Metric("line max us", _of("line_max")), Metric("line p99 us", _of("line_p99"))),
        only=("wrap-distributed", "go", "nginx", "direct"),
    ),
}
#: those that say little that the others do not: only when asked for
RARE = ("rps1", "rps16", "rps64", "burst1", "burst256", "paced64")
USUAL = tuple(name for name in TESTS if name not in RARE)


def arguments(test: str, upstream: int, first_id: int) -> list[str]:
    """The load generator's, without the port."""
    load = list(TESTS[test].load)
    if load[0] == "cancel":
        load += ["-m", str(upstream or LOCAL), "-g", str(first_id)]
    return load


def fault(cell: Cell) -> str | None:
    """Why a cell cannot be used."""
    if "error" in cell:
        return str(cell["error"])
    if cell["test"] == "idle" and cell["streams"] < 990:
        return f"{cell['streams']} streams, not 1000"
    if cell.get("done") and (wanted := SIZES.get(cell["test"])):
        size = cell["MB_per_s"] * 1e6 / cell["rps"]
        # Answers that were under way at either end are counted in part.
        load = TESTS[cell["test"]].load
        ends = int(load[load.index("-c") + 1]) / cell["done"]
        if abs(size / wanted - 1) > 0.05 + ends:
            return f"{size:.0f} bytes an answer, not {wanted}"
    return None


def scaled(cell: Cell) -> Cell:
    """With the counts of the whole run: CPU time was read over the warm-up too."""
    if cell.get("done") is not None and cell.get("seconds"):
        share = cell["wall"] / cell["seconds"]
        cell["done_all"] = max(1.0, cell["done"] * share)
        cell["lines_all"] = max(1.0, cell["lines"] * share)
    return cell
