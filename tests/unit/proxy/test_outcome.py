"""What the end of an attempt means, by the words of stock itself."""

import json
import time
from pathlib import Path

import pytest

from ollama_wrap.call import Header, Kind
from ollama_wrap.errors import (
    BadReply,
    ConnectFailed,
    NodeGone,
    StreamBroken,
    UpstreamError,
    UpstreamTimeout,
)
from ollama_wrap.nodes.verdict import Blame
from ollama_wrap.proxy import outcome
from ollama_wrap.proxy.outcome import DOUBTFUL, Outcome, Repeat, of_answer, of_break, of_error

RECORDINGS = Path(__file__).parents[2] / "data" / "recordings"
JSON: list[Header] = [(b"Content-Type", b"application/json; charset=utf-8")]
TEXT: list[Header] = [(b"content-type", b"text/plain")]
#: by the first words of a recording's name
RECORDED = {
    "engine dies before": outcome.LOAD,
    "out of memory at load": outcome.OOM_AT_LOAD,
    "crash at load": outcome.LOAD,
    "load queue full": outcome.BUSY,
}


def recorded(*files: str) -> list[tuple[str, int, list[Header], bytes]]:
    rows = []
    for file in files:
        for entry in json.loads((RECORDINGS / file).read_text("utf-8")):
            reply = entry["reply"]
            pairs = [(n.encode(), v.encode()) for n, v in reply["headers"]]
            body = reply["body"].encode("latin-1")
            rows.append((entry["name"], reply["status"], pairs, body))
    return rows


FAILED = [row for row in recorded("failures-v0.33.0.json") if row[1] in DOUBTFUL]


@pytest.mark.parametrize("name, status, headers, body", FAILED, ids=[row[0] for row in FAILED])
def test_recorded_failure_is_what_the_table_says(
    name: str, status: int, headers: list[Header], body: bytes
) -> None:
    (wanted,) = [end for words, end in RECORDED.items() if name.startswith(words)]

    assert of_answer(Kind.INFER, status, headers, body) is wanted


def test_recorded_answer_of_a_healthy_server_blames_nobody() -> None:
    ends = {
        (of_answer(Kind.INFER, status, headers, body), body)
        for _, status, headers, body in recorded("v0.33.0.json", "v0.24.0.json")
        if status in DOUBTFUL
    }

    assert {end for end, _ in ends} <= {outcome.SERVED, outcome.MISSING, outcome.NO_ROUTE}
    assert all(b"not found" in body for end, body in ends if end is outcome.MISSING)


TEXTS = [
    ("timed out waiting for llama-server to start - progress 0.00 - ", outcome.STALLED),
    ("timed out waiting for llama runner to start - progress 0.50 - ", outcome.STALLED),
    ("CUDA error: out of memory", outcome.OOM),
    ("cudaMalloc failed: OUT OF MEMORY", outcome.OOM),
    ("unable to allocate CUDA0 buffer", outcome.OOM),
    ("failed to allocate compute pp buffers", outcome.OOM),
    ("model requires more system memory (9 GiB) than is available", outcome.OOM_AT_LOAD),
    ("llama runner process has terminated: signal: killed", outcome.LOAD),
    ("llama runner process no longer running: -1", outcome.LOAD),
    ("model runner has unexpectedly stopped, this may be due to …", outcome.LOAD),
    ("error starting llama-server: llama-server binary not found", outcome.LOAD),
    ("error loading model architecture", outcome.LOAD),
    ("an error was encountered while running the model: EOF", outcome.LOAD),
    ('template: :3: function "x" not defined', outcome.SERVED),
    ("something new", outcome.SERVED),
]


@pytest.mark.parametrize("text, wanted", TEXTS)
def test_text_of_a_500_decides(text: str, wanted: Outcome) -> None:
    assert of_answer(Kind.INFER, 500, JSON, json.dumps({"error": text}).encode()) is wanted


MISSES = [
    "model 'x' not found",
    'model "x" not found, try pulling it first',
    "The model 'x' not found",
    "file does not exist",
]


@pytest.mark.parametrize("text", MISSES)
def test_404_of_a_model_is_tried_elsewhere_and_corrects_what_is_known(text: str) -> None:
    end = of_answer(Kind.INFER, 404, JSON, json.dumps({"error": text}).encode())

    assert end is outcome.MISSING
    assert (end.repeat, end.absent, end.blame) == (Repeat.FREE, True, Blame.NONE)


ANSWERS = [
    (Kind.INFER, 404, JSON, b'{"error":"model \'\' not found"}', outcome.SERVED),
    (Kind.INFER, 404, JSON, b'{"error":"no such blob"}', outcome.SERVED),
    (Kind.INFER, 404, TEXT, b"404 page not found", outcome.NO_ROUTE),
    (Kind.FOLLOW, 404, TEXT, b"404 page not found", outcome.SERVED),
    (Kind.INFER, 429, JSON, b"{}", outcome.SERVED),
    (Kind.INFER, 502, JSON, b"{}", outcome.GATEWAY),
    (Kind.INFER, 503, JSON, b"", outcome.GATEWAY),
    (Kind.INFER, 504, TEXT, b"upstream timed out", outcome.GATEWAY),
    (Kind.INFER, 503, JSON, b'{"error":"x","reason":"drained"}', outcome.DRAINED),
    (Kind.INFER, 503, JSON, b'{"error":"server busy, please try again"}', outcome.BUSY),
]


@pytest.mark.parametrize("kind, status, headers, body, wanted", ANSWERS)
def test_answer_of_a_doubtful_status_is_looked_into(
    kind: Kind, status: int, headers: list[Header], body: bytes, wanted: Outcome
) -> None:
    assert of_answer(kind, status, headers, body) is wanted


BEFORE = [
    (ConnectFailed("refused"), outcome.CONNECT),
    (StreamBroken("reset"), outcome.RESET),
    (BadReply("garbage"), outcome.BAD),
    (UpstreamTimeout("no answer"), outcome.LATE),
]


@pytest.mark.parametrize("error, wanted", BEFORE)
def test_failure_before_the_first_byte_has_one_meaning(
    error: UpstreamError, wanted: Outcome
) -> None:
    assert of_error(error) is wanted


def test_connect_timeout_did_no_work_on_the_node() -> None:
    error = UpstreamTimeout("no connection")
    error.sent = False

    assert of_error(error) is outcome.TIMEOUT
    assert outcome.TIMEOUT.repeat is Repeat.FREE


BREAKS = [
    (StreamBroken("reset"), "reset"),
    (BadReply("chunk"), "bad-response"),
    (NodeGone("gone"), "node-down"),
]


@pytest.mark.parametrize("error, word", BREAKS)
def test_break_after_the_first_byte_is_never_repeated(error: UpstreamError, word: str) -> None:
    end = of_break(error)

    assert (end.word, end.repeat, end.blame) == (word, Repeat.NO, Blame.NODE)


@pytest.mark.parametrize("end", [outcome.LOAD, outcome.OOM, outcome.STALLED, outcome.ENGINE])
def test_failure_of_a_model_is_no_success_of_it(end: Outcome) -> None:
    assert end.verdict.blame in {Blame.MODEL, Blame.MODEL_DOUBLE}
    assert not end.verdict.success


@pytest.mark.parametrize("end", [outcome.SERVED, outcome.MISSING, outcome.BUSY, outcome.GATEWAY])
def test_any_well_formed_answer_is_a_success_of_the_node(end: Outcome) -> None:
    assert (end.verdict.blame, end.verdict.success) == (Blame.NONE, True)


@pytest.mark.parametrize("end", [outcome.CONNECT, outcome.TIMEOUT, outcome.RESET, outcome.CUT])
def test_broken_connection_puts_the_node_in_doubt(end: Outcome) -> None:
    assert (end.verdict.blame, end.verdict.suspect) == (Blame.NODE, True)


@pytest.mark.parametrize("end", [outcome.LEFT, outcome.NODE_DOWN, outcome.LOCAL_DOWN, outcome.LATE])
def test_what_the_node_did_not_do_counts_against_nobody(end: Outcome) -> None:
    assert (end.verdict.blame, end.verdict.success) == (Blame.NONE, False)


@pytest.mark.parametrize("name", ["model '", "model '' ", "' not foun", "out of memory "])
@pytest.mark.parametrize("status", [404, 500])
def test_name_that_is_made_of_our_words_is_judged_at_once(name: str, status: int) -> None:
    """S20, S35: stock repeats the name that a client sent."""
    body = f"model '{name * 9000} not loaded".encode()
    began = time.perf_counter()

    of_answer(Kind.INFER, status, JSON, body[:65_536])

    assert time.perf_counter() - began < 0.1


@pytest.mark.parametrize("text", ["file does not exist", "model 'x': file does not exist"])
def test_missing_file_is_a_missing_model(text: str) -> None:
    body = json.dumps({"error": text}).encode()

    assert of_answer(Kind.INFER, 404, JSON, body) is outcome.MISSING
