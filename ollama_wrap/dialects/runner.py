"""The options that a model is loaded with: stock runs one engine for each set of them.

What fails with one set says nothing of the others, and another set has the model loaded
anew. Owns which options these are (Runner in stock's `api/types.go`, and what its
scheduler compares); it must not know what fails.
"""

import json

from ollama_wrap.dialects.body import fields

_NAMES = frozenset({"num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread"})
#: a longer body, or one that is not in one piece, is not read once more for this
_LONGEST = 1024 * 1024


def runner(body: bytes | object) -> str:
    """The options in a body of `/api/generate`, `chat` or `embed` as text; "": stock's own."""
    if not isinstance(body, bytes) or len(body) > _LONGEST or b"ptions" not in body:
        return ""
    found = fields(body, {"options": True})
    options = found[0].get("options") if found is not None else None
    try:
        said = json.loads(bytes(options)) if options is not None else None
    except (ValueError, RecursionError):
        return ""
    if not isinstance(said, dict):
        return ""
    return ",".join(f"{name}={json.dumps(said[name])}" for name in sorted(_NAMES & said.keys()))
