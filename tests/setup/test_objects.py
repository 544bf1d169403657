"""What a program hands over instead of names, and what its configuration then says."""

import pytest

import fedhello as fh
from fedhello.setup.objects import check_processor, given_held_out, with_objects, words_of_objects

ROWS = [{"text": f"apple {i}", "label": "fruit"} for i in range(8)]


def test_a_method_object_needs_no_name_in_a_table(place):
    def all_blocks(context, *, power: int = 1):
        return fh.METHODS["full"].bind().allocate(context)

    mine = fh.Method("of: this test", "the full thing", "-", all_blocks)
    configured = fh.load_config("tiny.yaml", {"method": {"name": "fed-hello", "warmup": 1}})
    try:
        # The options of another method are not its own; what an override says is.
        section = fh.prepare(configured, {"method.power": 2}, method=mine).config["method"]
        assert (section["name"], section["power"], "warmup" in section) == ("of: this test", 2, False)
        kept = fh.load_config(configured, {"method": {"name": mine.name, "power": 3}})
        assert fh.prepare(kept, method=mine).config["method"]["power"] == 3
    finally:
        fh.METHODS.pop("of: this test")


def test_a_configuration_says_what_is_handed_over_after_the_callers_own_overrides(place):
    model, tokenizer = object(), object()
    words, given = words_of_objects(
        "tiny.yaml", {"train.rounds": 7}, model=model, processor=tokenizer, data=[ROWS, ROWS[:3]], test=ROWS
    )
    assert words[0] == "train.rounds=7"
    assert words[1:] == [
        "model.name=memory", "data.name=memory", "data.test=test", "data.partition={kind: files}", "data.clients=2"
    ]  # fmt: skip
    assert (given.model, given.processor) == (model, tokenizer)
    assert list(given.data.splits) == ["client-0", "client-1", "test"]
    config, _ = with_objects("tiny.yaml", {"train.clients_per_round": 1}, data=[ROWS, ROWS[:3]])
    assert (config.data.clients, config.data.partition.kind, config.model.name) == (2, "files", "./tiny")


def test_one_data_set_is_split_as_the_configuration_says(place):
    words, given = words_of_objects("tiny.yaml", (), data=ROWS)
    assert words == ["data.name=memory"]
    assert list(given.data.splits) == [""]
    assert words_of_objects("tiny.yaml", ())[0] == []


def test_what_belongs_to_something_else_is_not_handed_over_alone():
    for alone in ({"validation": ROWS}, {"test": ROWS}):
        with pytest.raises(fh.ConfigError, match="expected data with validation or test data in memory; found none"):
            given_held_out(None, alone.get("validation"), alone.get("test"))
    assert given_held_out(ROWS, None, ROWS) == {"test": ROWS}
    assert given_held_out(None, None, None) == {}
    with pytest.raises(fh.ConfigError, match="expected a model with the processor; found none"):
        check_processor(None, object())
    check_processor(object(), None)
