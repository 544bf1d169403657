import re

import pytest

from fedhello.errors import ConfigError, DataError, EngineError
from fedhello.network.consent import Consent
from fedhello.network.options import ClientOptions
from fedhello.network.preparation import prepare_client
from fedhello.network.server import _invitation
from fedhello.network.worker import FIELDS, Worker
from fedhello.setup.prepare import load
from network import config_of


def test_a_client_that_cannot_take_part_says_so_to_the_server_and_ends(place, told):
    worker = Worker(lambda raw, labels: prepare_client(ClientOptions("a", "none.csv", model="tiny"), raw, labels))
    fields = _invitation(load(config_of(place)), "r")
    reply = worker.answer("join", fields)
    assert reply == {"error": "does not fit"}
    assert isinstance(worker.failure, DataError)
    assert worker.answer("train", {})["error"] == "join first"
    assert worker.answer("dance", {})["error"] == "malformed"


def test_versions_that_differ_do_not_go_together(place):
    worker = Worker(lambda raw, labels: None)
    fields = _invitation(load(config_of(place)), "r") | {"version": "9.9"}
    assert worker.answer("join", fields) == {"error": "other version"}
    assert "Install the same" in str(worker.failure)


@pytest.mark.parametrize(
    ("field", "text", "said"),
    [
        ("config", "[1]", r"a configuration of sections such as model: and data:; found \[1\]"),
        ("config", "null", "of sections such as model: and data:; found null"),
        ("config", '{"model": "x"}', "of sections such as"),
        ("config", '{"model": null}', "of sections such as"),
        ("config", "{", "its configuration or its labels are no JSON"),
        ("config", "[" * 10**5, "RecursionError"),
        ("labels", "[1, 2]", r"with a list of different labels; found \[1, 2\]"),
        ("labels", "null", "with a list of different labels"),
        ("labels", '[["a"], ["b"]]', "with a list of different labels"),
        ("labels", '["a", "a"]', "with a list of different labels"),
        ("protocol", "x", "Install the same"),
        ("version", None, "Install the same"),
    ],
)
def test_a_server_that_does_not_speak_as_it_should_is_one_sentence(field, text, said, place):
    worker = Worker(lambda raw, labels: prepare_client(ClientOptions("a", "texts.csv", model="tiny"), raw, labels))
    reply = worker.answer("join", _invitation(load(config_of(place)), "r") | {field: text})
    code = (
        "other version" if field in ("protocol", "version") else "failed" if "RecursionError" in said else "malformed"
    )
    assert reply == {"error": code}
    assert isinstance(worker.failure, EngineError)
    assert re.search(said, str(worker.failure))
    assert worker.answer("join", {}) == {"error": "other version"}


def test_more_batches_than_can_be_told_are_refused(place, told):
    raw, labels = told
    raw["train"]["epochs"] = 10**9
    options = ClientOptions("a", "texts.csv", model="tiny", consent=Consent(epochs=10**9))
    with pytest.raises(ConfigError, match=r"at most 4194304 batches per round; .*train\.epochs, 1000000000, and"):
        prepare_client(options, raw, labels)


def test_what_nobody_foresaw_is_one_sentence_too(place):
    def fails(raw, labels):
        raise TypeError("first line\nsecond")

    worker = Worker(fails)
    worker.answer("join", _invitation(load(config_of(place)), "r"))
    assert isinstance(worker.failure, EngineError)
    assert isinstance(worker.failure.__cause__, TypeError)
    assert "; TypeError: first line second. If this machine" in str(worker.failure)
    worker.answer("bye", {})
    assert worker.ended == "nobody said how"


@pytest.mark.parametrize("kind", ["sums", "scores", "train"])
def test_a_message_with_missing_or_odd_fields_is_refused_with_a_code_and_the_worker_goes_on(place, kind):
    worker = Worker(lambda raw, labels: prepare_client(ClientOptions("a", "texts.csv", model="tiny"), raw, labels))
    worker.answer("join", _invitation(load(config_of(place)), "r"))
    whole = {"client": 0, "run": "r", "task": b"x", "seconds": 9.0, "samples": 1, "batch_size": 1}
    whole = {name: whole[name] for name in FIELDS[kind]}
    wrong = [{k: v for k, v in whole.items() if k != name} for name in whole]
    wrong += [whole | {name: odd} for name in whole for odd in (None, [1], float("nan"), -1)]
    wrong += [whole | {"adapter": 10**12}]
    for fields in wrong:
        reply = worker.answer(kind, fields)
        assert reply == {"error": "malformed"}, fields
    assert worker.failure is None
    assert "sums" in worker.answer("sums", {"client": 0, "run": "r"})
