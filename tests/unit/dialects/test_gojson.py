"""Strings as Go's encoder writes them; the expected texts were printed by Go 1.26."""

import pytest

from ollama_wrap.dialects.gojson import quoted


@pytest.mark.parametrize(
    "text,expected",
    [
        ("plain é 你", '"plain é 你"'),
        ('a"b\\c/', '"a\\"b\\\\c/"'),
        ("<b>&", '"\\u003cb\\u003e\\u0026"'),
        ("\b\f\n\r\t\x00\x1f\x7f", '"\\b\\f\\n\\r\\t\\u0000\\u001f\x7f"'),
        ("\u2028\u2029", '"\\u2028\\u2029"'),
        ("\ud800x", '"\\ufffdx"'),
    ],
)
def test_text_is_quoted_as_go_quotes_it(text: str, expected: str) -> None:
    assert quoted(text) == expected
