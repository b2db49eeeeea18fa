from ollama_wrap.state import names


def test_a_part_from_outside_cannot_reach_into_another_key() -> None:
    keys = {names.seen(part) for part in ("r1", "r1:x", "r1%3Ax", "r/1", "é", "\udc80")}

    assert len(keys) == 6
    assert all(key.isascii() and key.count(":") == 1 for key in keys)
