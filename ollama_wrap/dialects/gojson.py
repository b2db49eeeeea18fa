"""JSON text as Go's encoding/json writes it. It must not know what is written."""

import json
import re

_escaped = re.compile("[<>&\u2028\u2029\ud800-\udfff]")


def quoted(text: str) -> str:
    """`text` as a JSON string: `<`, `>`, `&` and the two line separators escaped."""
    return _escaped.sub(_escape, json.dumps(text, ensure_ascii=False))


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return "\\ufffd" if 0xD800 <= code <= 0xDFFF else f"\\u{code:04x}"
