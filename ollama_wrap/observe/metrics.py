"""Every metric, declared in one table; counted in plain numbers, folded in when scraped.

Owns names, help texts, labels and their bounds: a model is a label only if a
node knows it, and all tables together stay under 2,000 series. The request
path adds to integers; prometheus-client sees them only in `render` and
`as_dict`. Knows no nodes: it is given what it asks for as callables.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from ollama_wrap.call import INFER, Kind
from ollama_wrap.observe.ended import Ended
from ollama_wrap.observe.pressure import Measure, Strain

#: of what `Metrics.render` gives
CONTENT_TYPE = CONTENT_TYPE_LATEST

PREFIX = "ollama_wrap_"
OTHER = "other"

#: bounds in series; with the histograms and the process's own they stay under 2,000
MODELS, REQUESTS, REASONS, NODE_STATES = 100, 1500, 40, 256
#: spellings of models whose label is remembered
SPELLINGS = 1000

# From a cached prompt to a model that has to be loaded first.
FIRST_TOKEN = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
# From 500 tokens a second down to one in five seconds.
PER_TOKEN = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 5.0)
# From an embedding to a long answer of a large model.
LATENCY = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


@dataclass(frozen=True, slots=True)
class Row:
    """One metric: its name without the prefix, its help text and its labels."""

    kind: str
    name: str
    text: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


TABLE = (
    Row("counter", "requests", "Requests that ended.", ("node", "kind", "model", "status")),
    Row("gauge", "num_requests_running", "Requests in hand, waiting ones not included."),
    Row("gauge", "num_requests_waiting", "Requests that wait for a place at a node."),
    Row("histogram", "time_to_first_token_seconds",
        "Streamed inference: from the request to the first byte of its answer.",
        bounds=FIRST_TOKEN),
    Row("histogram", "time_per_output_token_seconds",
        "Streamed inference: from one token to the next, on average.", bounds=PER_TOKEN),
    Row("histogram", "e2e_request_latency_seconds",
        "Inference that succeeded: from the request to its end.", bounds=LATENCY),
    Row("counter", "prompt_tokens", "Tokens of prompts, as nodes count them."),
    Row("counter", "generation_tokens", "Tokens of answers, as nodes count them."),
    Row("counter", "fallbacks", "Requests that another answerer took over.", ("reason",)),
    Row("counter", "retries", "Attempts after the first one of a request.", ("reason",)),
    Row("counter", "cache_hits", "Answers given from the cache."),
    Row("counter", "cache_misses", "Requests whose answer the cache was asked for in vain."),
    Row("gauge", "cache_bytes", "Bytes of the answers in the cache."),
    Row("gauge", "cache_entries", "Answers in the cache."),
    Row("gauge", "node_state", "1 for the state that a node is in.", ("node", "state")),
    Row("gauge", "overload", "1 for each measure against overload that holds now.",
        ("measure",)),
    Row("gauge", "loop_lag_seconds", "How late the event loop came when it was last looked at."),
    Row("counter", "reloads", "Times that settings were read anew, taken or refused.",
        ("result",)),
)  # fmt: skip


#: requests that are counted at a time
TOGETHER = 64


@dataclass(slots=True)
class Histogram:
    """Counts of values up to each bound, and their sum."""

    bounds: tuple[float, ...]
    counts: list[int]
    total: float = 0.0

    @classmethod
    def over(cls, bounds: tuple[float, ...]) -> "Histogram":
        return cls(bounds, [0] * (len(bounds) + 1))

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass(frozen=True, slots=True)
class Totals:
    """The sums that status pages show; `average_latency` is seconds, None before the first."""

    ended: int
    failed: int
    running: int
    waiting: int
    fallbacks: int
    retries: int
    cache_hits: int
    average_latency: float | None


class Metrics(Collector):
    """The numbers of this process.

    `is_known(model)` says whether a node has that model; `node_states()` gives
    each node's id and state word; `strain` what is done about overload.
    """

    def __init__(
        self,
        is_known: Callable[[str], bool],
        node_states: Callable[[], Iterable[tuple[str, str]]] = tuple,
        strain: Strain | None = None,
    ) -> None:
        self._strain = strain or Strain()
        self._is_known = is_known
        self._node_states = node_states
        self._models: set[str] = set()
        self._labels: dict[str, str] = {}
        self._requests: dict[tuple[str, str, str, int | str], int] = {}
        self._reasons = {name: Counter[str]() for name in ("fallbacks", "retries", "reloads")}
        self._numbers: Counter[str] = Counter()
        self._histograms = {row.name: Histogram.over(row.bounds) for row in TABLE if row.bounds}
        self._first_token = self._histograms["time_to_first_token_seconds"]
        self._per_token = self._histograms["time_per_output_token_seconds"]
        self._latency = self._histograms["e2e_request_latency_seconds"]
        self._failed = 0
        #: how many requests are in hand
        self.running: Callable[[], int] = lambda: 0
        #: called before the numbers are read, by whoever keeps some of them back
        self.refresh: Callable[[], None] = lambda: None
        #: requests that ended and are not counted yet: together that costs less
        self._endings: list[tuple[Ended, Kind]] = []
        self._duration = 0.0
        self._registry = CollectorRegistry()
        self._registry.register(self)
        # A registry of our own: other programs in this process keep theirs.
        ProcessCollector(registry=self._registry)

    def ended(self, e: Ended, kind: Kind) -> None:
        """Count a request that ended."""
        self._endings.append((e, kind))
        if len(self._endings) >= TOGETHER:
            self._settle()

    def _settle(self) -> None:
        endings, self._endings = self._endings, []
        for e, kind in endings:
            self._ended(e, kind)

    def _ended(self, e: Ended, kind: Kind) -> None:
        model = self._labels.get(e.model or "")
        if model is None:
            model = self._label(e.model or "")
        key: tuple[str, str, str, int | str] = (e.node or "", str(kind), model, e.status)
        counts = self._requests
        count = counts.get(key)
        if count is None and len(counts) >= REQUESTS:
            # Still counted, so that the sum over all series stays true.
            key = (OTHER, OTHER, OTHER, OTHER)
            count = counts.get(key)
        counts[key] = (count or 0) + 1
        self._duration += e.duration
        if e.status >= 500 or e.error is not None:
            self._failed += 1
        elif kind is INFER and e.status < 400:
            self._answered(e)

    def waiting(self, change: int) -> None:
        """A request began (1) or ceased (-1) to wait for a place."""
        self._numbers["num_requests_waiting"] += change

    def fallback(self, reason: str) -> None:
        """A request was taken over by another answerer."""
        self._count("fallbacks", reason)

    def retry(self, reason: str) -> None:
        """A request was sent again, because of `reason`."""
        self._count("retries", reason)

    def reload(self, result: str) -> None:
        """Settings were read anew; `result`: `taken` or `refused`."""
        self._count("reloads", result)

    def cache_hit(self) -> None:
        self._numbers["cache_hits"] += 1

    def cache_miss(self) -> None:
        self._numbers["cache_misses"] += 1

    def cache_holds(self, entries: int, size: int) -> None:
        """What is in the cache now; `size` is bytes."""
        self._numbers["cache_entries"] = entries
        self._numbers["cache_bytes"] = size

    def totals(self) -> Totals:
        self.refresh()
        self._settle()
        ended = sum(self._requests.values())
        return Totals(
            ended=ended,
            failed=self._failed,
            running=self.running(),
            waiting=self._numbers["num_requests_waiting"],
            fallbacks=self._reasons["fallbacks"].total(),
            retries=self._reasons["retries"].total(),
            cache_hits=self._numbers["cache_hits"],
            average_latency=self._duration / ended if ended else None,
        )

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self._registry)

    def as_dict(self) -> dict[str, list[dict[str, object]]]:
        """The same numbers: sample name → [{"labels": {…}, "value": number}]."""
        result: dict[str, list[dict[str, object]]] = {}
        for family in self._registry.collect():
            for sample in family.samples:
                number = {"labels": sample.labels, "value": sample.value}
                result.setdefault(sample.name, []).append(number)
        return result

    def describe(self) -> Iterable[Metric]:
        """Nothing ahead of time: our names are in one registry of our own."""
        return ()

    def collect(self) -> Iterator[Metric]:
        self.refresh()
        self._settle()
        for row in TABLE:
            yield _family(row, self._samples(row.name))

    def _answered(self, e: Ended) -> None:
        self._latency.add(e.duration)
        # An answer that came in one piece says nothing about its tokens.
        if e.streamed and e.first_byte is not None:
            self._first_token.add(e.first_byte)
            if (per_token := e.per_token) is not None:
                self._per_token.add(per_token)
        self._numbers["prompt_tokens"] += e.prompt_tokens or 0
        self._numbers["generation_tokens"] += e.tokens or 0

    def _count(self, name: str, reason: str) -> None:
        counts = self._reasons[name]
        counts[reason if reason in counts or len(counts) < REASONS else OTHER] += 1

    def _label(self, model: str) -> str:
        if not model:
            return ""
        # Names are free to make up; a label for each would fill the memory.
        if not self._is_known(model):
            return OTHER
        # Two spellings that stock takes for one model are one label.
        label = model.lower().removesuffix(":latest")
        if label not in self._models and len(self._models) >= MODELS:
            return OTHER
        self._models.add(label)
        if len(self._labels) < SPELLINGS:
            self._labels[model] = label
        return label

    def _samples(self, name: str) -> "Samples":
        if name == "requests":
            return list(self._requests.items())
        if name in self._reasons:
            return [((reason,), count) for reason, count in self._reasons[name].items()]
        if name == "node_state":
            return [(node, 1) for node in sorted(set(self._node_states()))[:NODE_STATES]]
        if name == "overload":
            return [((one.value,), one in self._strain.measures) for one in Measure]
        present: dict[str, Callable[[], float]] = {
            "num_requests_running": self.running,
            "loop_lag_seconds": lambda: self._strain.lag,
        }
        if name in present:
            return [((), present[name]())]
        return self._histograms.get(name) or [((), self._numbers[name])]


#: a histogram, or numbers by the values of their labels
Samples = Histogram | list[tuple[tuple[object, ...], float]]


def _family(row: Row, samples: Samples) -> Metric:
    name = PREFIX + row.name
    if isinstance(samples, Histogram):
        buckets = list(_buckets(samples))
        return HistogramMetricFamily(name, row.text, buckets=buckets, sum_value=samples.total)
    family: CounterMetricFamily | GaugeMetricFamily
    if row.kind == "counter":
        family = CounterMetricFamily(name, row.text, labels=row.labels)
    else:
        family = GaugeMetricFamily(name, row.text, labels=row.labels)
    for labels, value in samples:
        family.add_metric([str(label) for label in labels], value)
    return family


def _buckets(histogram: Histogram) -> Iterator[tuple[str, float]]:
    below = 0
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        below += count
        yield ("+Inf" if bound == float("inf") else str(bound)), below
