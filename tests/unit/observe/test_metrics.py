import pytest
from prometheus_client.parser import text_string_to_metric_families

from ollama_wrap.call import Kind
from ollama_wrap.observe.metrics import MODELS, TABLE, Metrics
from ollama_wrap.observe.pressure import Measure, Strain
from tests.unit.observe.samples import ended


def known(model: str) -> bool:
    return model.lower().startswith("llama")


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(known)


LABELS = ("node", "kind", "model", "status", "state", "reason", "measure", "le")


def scraped(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    """What Prometheus reads: (sample name, label values) → number."""
    return {
        (sample.name.removeprefix("ollama_wrap_"), values(sample.labels)): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def values(labels: dict[str, str]) -> tuple[str, ...]:
    return tuple(labels[name] for name in LABELS if name in labels)


def test_every_row_has_its_text_and_is_scraped_under_its_name(metrics: Metrics) -> None:
    families = {f.name: f for f in text_string_to_metric_families(metrics.render().decode())}

    for row in TABLE:
        family = families["ollama_wrap_" + row.name]
        assert (family.type, family.documentation) == (row.kind, row.text)
    assert len({row.name for row in TABLE}) == len(TABLE)


def test_requests_are_counted_by_node_kind_model_and_status(metrics: Metrics) -> None:
    metrics.ended(ended(), Kind.INFER)
    metrics.ended(ended(), Kind.INFER)
    metrics.ended(ended(model=None, node=None, status=499), Kind.LIST)

    numbers = scraped(metrics)
    assert numbers["requests_total", ("r2", "infer", "llama3", "200")] == 2
    assert numbers["requests_total", ("", "list", "", "499")] == 1


def test_model_that_no_node_knows_is_no_label(metrics: Metrics) -> None:
    for n in range(1000):
        metrics.ended(ended(model=f"evil{n}"), Kind.INFER)

    assert scraped(metrics)["requests_total", ("r2", "infer", "other", "200")] == 1000


def test_spellings_of_one_model_are_one_label(metrics: Metrics) -> None:
    for model in ("llama3", "LLaMA3", "llama3:latest"):
        metrics.ended(ended(model=model), Kind.INFER)

    assert scraped(metrics)["requests_total", ("r2", "infer", "llama3", "200")] == 3


def test_at_most_a_hundred_models_are_labels(metrics: Metrics) -> None:
    for n in range(MODELS + 50):
        metrics.ended(ended(model=f"llama{n}"), Kind.INFER)
    metrics.ended(ended(model="llama0"), Kind.INFER)

    numbers = scraped(metrics)
    assert numbers["requests_total", ("r2", "infer", "other", "200")] == 50
    assert numbers["requests_total", ("r2", "infer", "llama0", "200")] == 2


def test_series_stay_under_two_thousand_and_no_request_is_lost() -> None:
    metrics = Metrics(known, lambda: [(f"n{n}", "up") for n in range(5000)])
    for n in range(20_000):
        metrics.ended(ended(node=f"n{n % 70}", model=f"llama{n}", status=200 + n % 300), Kind.INFER)
        metrics.retry(f"reason{n}")
        metrics.fallback(f"reason{n}")

    numbers = scraped(metrics)
    assert len(numbers) < 2000
    assert sum(v for (name, _), v in numbers.items() if name == "requests_total") == 20_000
    assert sum(v for (name, _), v in numbers.items() if name == "retries_total") == 20_000
    assert metrics.totals().ended == 20_000


def test_streamed_answer_fills_the_histograms(metrics: Metrics) -> None:
    metrics.ended(ended(first_byte=0.5, duration=2.5, tokens=11), Kind.INFER)

    numbers = scraped(metrics)
    assert numbers["time_to_first_token_seconds_bucket", ("0.25",)] == 0
    assert numbers["time_to_first_token_seconds_bucket", ("0.5",)] == 1
    assert numbers["time_to_first_token_seconds_bucket", ("+Inf",)] == 1
    assert numbers["time_to_first_token_seconds_sum", ()] == 0.5
    assert numbers["time_per_output_token_seconds_sum", ()] == pytest.approx(0.2)
    assert numbers["e2e_request_latency_seconds_sum", ()] == 2.5
    assert numbers["e2e_request_latency_seconds_count", ()] == 1
    assert numbers["prompt_tokens_total", ()] == 7
    assert numbers["generation_tokens_total", ()] == 11


def test_latencies_are_those_of_inference_that_succeeded(metrics: Metrics) -> None:
    metrics.ended(ended(status=404), Kind.INFER)
    metrics.ended(ended(error="broke"), Kind.INFER)
    metrics.ended(ended(), Kind.LIST)
    metrics.ended(ended(streamed=False, tokens=None, prompt_tokens=None), Kind.INFER)

    numbers = scraped(metrics)
    assert numbers["e2e_request_latency_seconds_count", ()] == 1
    assert numbers["time_to_first_token_seconds_count", ()] == 0
    assert numbers["generation_tokens_total", ()] == 0


def test_answer_of_one_token_has_no_time_between_tokens(metrics: Metrics) -> None:
    metrics.ended(ended(tokens=1), Kind.INFER)

    numbers = scraped(metrics)
    assert numbers["time_to_first_token_seconds_count", ()] == 1
    assert numbers["time_per_output_token_seconds_count", ()] == 0


def test_gauges_go_up_and_down(metrics: Metrics) -> None:
    metrics.running = lambda: 3
    for change in (1, 1, -1):
        metrics.waiting(change)
    metrics.cache_holds(entries=3, size=4096)

    numbers = scraped(metrics)
    assert numbers["num_requests_running", ()] == 3
    assert numbers["num_requests_waiting", ()] == 1
    assert numbers["cache_entries", ()] == 3
    assert numbers["cache_bytes", ()] == 4096


def test_reasons_and_cache_are_counted(metrics: Metrics) -> None:
    metrics.retry("connect")
    metrics.retry("connect")
    metrics.fallback("timeout")
    metrics.cache_hit()
    metrics.cache_miss()

    numbers = scraped(metrics)
    assert numbers["retries_total", ("connect",)] == 2
    assert numbers["fallbacks_total", ("timeout",)] == 1
    assert numbers["cache_hits_total", ()] == 1
    assert numbers["cache_misses_total", ()] == 1


def test_state_of_a_node_is_asked_when_scraped() -> None:
    states = {"tower": "up", "r1": "down"}
    metrics = Metrics(known, states.items)

    before = scraped(metrics)
    states["r1"] = "up"
    after = scraped(metrics)

    assert before["node_state", ("r1", "down")] == 1
    assert ("node_state", ("r1", "down")) not in after
    assert after["node_state", ("r1", "up")] == 1


def test_labels_are_escaped(metrics: Metrics) -> None:
    metrics.ended(ended(model='llama"\n\\', node='r"1'), Kind.INFER)

    assert scraped(metrics)["requests_total", ('r"1', "infer", 'llama"\n\\', "200")] == 1


def test_totals_are_what_happened(metrics: Metrics) -> None:
    assert metrics.totals().average_latency is None

    metrics.ended(ended(duration=1.0), Kind.INFER)
    metrics.ended(ended(duration=2.0, status=503), Kind.INFER)
    metrics.ended(ended(duration=3.0, error="stream broke"), Kind.INFER)
    metrics.running = lambda: 1
    metrics.retry("reset")

    totals = metrics.totals()
    assert (totals.ended, totals.failed, totals.running, totals.retries) == (3, 2, 1, 1)
    assert totals.average_latency == 2.0


def test_as_dict_holds_the_same_numbers(metrics: Metrics) -> None:
    metrics.ended(ended(), Kind.INFER)

    numbers = metrics.as_dict()

    labels = {"node": "r2", "kind": "infer", "model": "llama3", "status": "200"}
    assert numbers["ollama_wrap_requests_total"] == [{"labels": labels, "value": 1}]
    assert numbers["ollama_wrap_num_requests_running"] == [{"labels": {}, "value": 0}]


def test_measures_against_overload_are_shown_whether_they_hold_or_not() -> None:
    strain = Strain()
    numbers = Metrics(known, strain=strain)
    strain.put(frozenset({Measure.SHED}))
    strain.lag = 0.5

    shown = scraped(numbers)

    assert {one: shown["overload", (one.value,)] for one in Measure} == {
        one: float(one is Measure.SHED) for one in Measure
    }
    assert shown["loop_lag_seconds", ()] == 0.5
