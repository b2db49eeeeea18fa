"""Makes GGUF files that stock Ollama loads in a blink and whose answer is known.

A sentence model has one block of zero weights, one-hot embeddings and an output matrix that
maps each word of its sentence to the next one, every other token to the first word and the
last word to the end: it answers any prompt with its sentence, at any temperature. Owns the
file format; knows nothing of daemons or the sidecar.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from gguf import GGUFWriter, PoolingType

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    Matrix = npt.NDArray[np.float16]

ARCHITECTURE = "llama"
CONTEXT_LENGTH = 8192
HEAD_WIDTH = 64
CERTAIN = 10.0
"""Weight of the wanted next token: after the norm some 180 logits above all others."""

UNKNOWN, START, END = 0, 1, 2
CONTROL = ("<unk>", "<s>", "</s>")
BYTES = tuple(f"<0x{value:02X}>" for value in range(256))


def write_sentence_model(path: Path, sentence: str) -> None:
    """Write a model that always says `sentence`, whose words must differ from each other."""
    words = sentence.split()
    if not words or len(set(words)) != len(words):
        msg = "a sentence needs words, each of them once"
        raise ValueError(msg)
    _write(path, words, says=" ".join(words))


def write_loop_model(path: Path, sentence: str, times: int) -> None:
    """Write a model that says `sentence` over and over, until it is stopped.

    An engine that reads what to say from the description says it `times` times.
    """
    words = sentence.split()
    _write(path, words, says=" ".join(words * times), loops=True)


def write_embedding_model(path: Path) -> None:
    """Write a model that embeds text as the mean of its tokens and cannot generate."""
    _write(path, ["embedding"], says="embedding", embeds=True)


def _write(
    path: Path, words: list[str], *, says: str, loops: bool = False, embeds: bool = False
) -> None:
    tokens = [*CONTROL, *BYTES, *(f"\u2581{word}" for word in words)]
    width = -(-len(tokens) // HEAD_WIDTH) * HEAD_WIDTH
    writer = GGUFWriter(str(path), ARCHITECTURE)
    _describe(writer, tokens, width)
    writer.add_description(says)
    if embeds:
        writer.add_pooling_type(PoolingType.MEAN)
    writer.add_tensor("token_embd.weight", np.eye(len(tokens), width, dtype=np.float16))
    after = len(tokens) - len(words) if loops else END
    writer.add_tensor("output.weight", _successors(len(tokens), len(words), width, after))
    writer.add_tensor("output_norm.weight", np.ones(width, dtype=np.float32))
    _add_idle_block(writer, width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: GGUFWriter, tokens: list[str], width: int) -> None:
    writer.add_context_length(CONTEXT_LENGTH)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(HEAD_WIDTH)
    writer.add_head_count(width // HEAD_WIDTH)
    writer.add_head_count_kv(width // HEAD_WIDTH)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(1)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([3] * len(CONTROL) + [6] * len(BYTES) + [1] * _words_in(tokens))
    writer.add_unk_token_id(UNKNOWN)
    writer.add_bos_token_id(START)
    writer.add_eos_token_id(END)


def _words_in(tokens: list[str]) -> int:
    return len(tokens) - len(CONTROL) - len(BYTES)


def _successors(vocabulary: int, words: int, width: int, after: int) -> Matrix:
    """Rows are next tokens, columns the present one; `after` follows the last word."""
    output = np.zeros((vocabulary, width), dtype=np.float16)
    first = vocabulary - words
    output[first, :first] = CERTAIN
    for word in range(first, vocabulary):
        output[word + 1 if word + 1 < vocabulary else after, word] = CERTAIN
    return output


def _add_idle_block(writer: GGUFWriter, width: int) -> None:
    """Add a block that passes on what it gets."""
    shapes = {
        "attn_q": (width, width),
        "attn_k": (width, width),
        "attn_v": (width, width),
        "attn_output": (width, width),
        "ffn_gate": (HEAD_WIDTH, width),
        "ffn_up": (HEAD_WIDTH, width),
        "ffn_down": (width, HEAD_WIDTH),
    }
    for name in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.0.{name}.weight", np.ones(width, dtype=np.float32))
    for name, shape in shapes.items():
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros(shape, dtype=np.float16))
