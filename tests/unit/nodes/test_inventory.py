from ollama_wrap.nodes.inventory import SEEN_FOR, Inventory, Loaded, Model

A = Model("a:latest", "a", "d1", 5)
ALIAS = Model("alias:latest", "alias", "d1", 5)
B = Model("b:latest", "b", "d2", 5)
STUB = Model("s:latest", "s", "d3", remote=True)


def test_listed_models_are_held_and_stubs_are_not() -> None:
    inventory = Inventory().listed([A, STUB], 100.0)

    assert inventory.known
    assert (inventory.holds("a"), inventory.holds("s"), inventory.holds("b")) == (
        True,
        False,
        False,
    )
    assert (inventory.stub("a"), inventory.stub("s"), inventory.stub("b")) == (False, True, False)
    assert (inventory.digest("a"), inventory.digest("b")) == ("d1", None)
    assert inventory.seen == {"a": 100.0}


def test_what_is_listed_no_more_is_not_there() -> None:
    inventory = Inventory().listed([A, B], 100.0).listed([B], 200.0)

    assert (inventory.had("a"), inventory.had("b")) == (False, True)
    assert inventory.seen == {"b": 200.0}


def test_what_an_earlier_run_saw_counts_until_the_node_lists() -> None:
    inventory = Inventory(seen={"a": 100.0})

    assert (inventory.had("a"), inventory.holds("a")) == (True, False)
    assert not inventory.listed([B], 200.0).had("a")


def test_model_is_loaded_under_every_name_of_its_digest() -> None:
    inventory = Inventory().listed([A, ALIAS, B], 0.0).running([Loaded("a", "d1")])

    assert inventory.has_loaded("a")
    assert inventory.has_loaded("alias")
    assert not inventory.has_loaded("b")
    assert not inventory.has_loaded("unknown")


def test_unknown_digests_are_not_equal_to_each_other() -> None:
    inventory = Inventory().listed([Model("x", "x", "")], 0.0).running([Loaded("y", "")])

    assert not inventory.has_loaded("x")
    assert inventory.has_loaded("y")
    assert inventory.digest("x") is None


def test_model_that_was_unloaded_is_in_memory_under_no_name() -> None:
    loaded = [Loaded("a", "d1"), Loaded("b", "d2"), Loaded("y", "")]
    inventory = Inventory().listed([A, ALIAS, B], 0.0).running(loaded)

    assert inventory.unloaded("alias").loaded.keys() == {"b", "y"}
    assert inventory.unloaded("a").loaded.keys() == {"b", "y"}
    assert inventory.unloaded("y").loaded.keys() == {"a", "b"}
    assert inventory.unloaded("unknown").loaded.keys() == {"a", "b", "y"}


def test_model_that_the_node_denies_is_gone_everywhere() -> None:
    inventory = Inventory().listed([A, B], 0.0).running([Loaded("a", "d1")]).without("a")

    assert not inventory.had("a")
    assert not inventory.has_loaded("a")
    assert inventory.seen == {"b": 0.0}
    assert inventory.had("b")


def test_what_was_not_seen_for_a_day_is_forgotten() -> None:
    inventory = Inventory().listed([A, STUB], 100.0).running([Loaded("a", "d1")])

    assert inventory.aged(100.0 + SEEN_FOR) is inventory
    old = inventory.aged(101.0 + SEEN_FOR)
    assert not old.had("a")
    assert not old.has_loaded("a")
    assert old.stub("s")
    assert old.seen == {}
