from pathlib import Path

import numpy as np
import pytest
from refused import refusal

from fedhello.config.read import load_config
from fedhello.config.typed import by_type, expanded
from fedhello.errors import ConfigError
from fedhello.network.consent import Consent


def value_of(config, dotted):
    found = config
    for key in dotted.split("."):
        found = (
            found.options[key]
            if hasattr(found, "options") and key not in type(found).model_fields
            else getattr(found, key)
        )
    return found


READ = {
    "data.clients": {"010": 10, "+7": 7},
    "train.lr": {".5": 0.5, "1e-3": 0.001, "1E5": 1e5, "5.": 5.0, "010": 10},
    "data.label": {word: word for word in ("1", "007", "1:30", "yes", "on", "true", "2024-01-01", "1_000", "0x10", ".5",
                                           "1e5", "nan", "a #b")} | {"'~'": "~", "null": None, "~": None},
    "run.name": {"007": "007", "~": None, "null": None, "Null": None, "'null'": "null", "2024-13-45": "2024-13-45",
                 "0b_": "0b_"},
    "model.revision": {"1234567": "1234567", "1e5": "1e5", "0o17": "0o17"},
    "data.text": {"1": "1", "[1, 007]": ["1", "007"], "[on, null]": None},
    "data.deduplicate": {"yes": True, "off": False, "TRUE": True, "no": False, "1": None, "'yes'": None},
    "model.drift_compensation": {"auto": "auto", "on": True},
    "data.test": {"1/5": 0.2, "20%": 0.2, "0.2": 0.2, "20 %": 0.2, "test": "test", "./1/5": "./1/5", "100%": None,
                  "0": None},
    "clients.dropout": {"10%": 0.1, "1/4": 0.25, "100%": None},
    "data.encoding": {"cp1252": "cp1252", "UTF-16LE": "UTF-16LE", "rot13": None, "hex": None, "ansi": None},
    "data.public": {"010": 10, "010.csv": "010.csv", "1.5": None},
    "train.rounds": {"3 # three": 3} | dict.fromkeys(("1:30", "1_000", "0x10", "0b1", "1e2", "yes", "3.0", "null")),
    "method.warmup": {"010": 10, "yes": None},
    "model.lora.targets": {"[query, 1]": ["query", "1"], "all-linear": "all-linear", "[]": None},
    "run.track": {"[jsonl, wandb]": ["jsonl", "wandb"], "jsonl": None},
}  # fmt: skip
"""Key → what is written → the value; None where the key does not accept it, or accepts nothing (``run.name``)."""


@pytest.mark.parametrize(("key", "written", "value"), [(k, w, v) for k, row in READ.items() for w, v in row.items()])
def test_a_value_is_read_by_its_keys_type_in_overrides_and_files(key, written, value, file):
    *sections, last = key.split(".")
    in_file = file(
        "{" + "".join(f"{section}: {{" for section in sections) + f"{last}: {written}\n" + "}" * len(sections) + "}"
    )
    if value is None and not (key == "run.name" and written.lower() in ("~", "null")):
        assert refusal(f"{key}={written}").startswith(f"{key}".replace("method.", "method (fed-hello)."))
        return
    found = value_of(load_config(None, [f"{key}={written}"]), key)
    assert (type(found), found) == (float if key == "train.lr" and found == 10 else type(value), value)
    if "#" not in written:  # in a file it starts a comment
        assert value_of(load_config(in_file), key) == found


PROMPTS = [
    "Q: {question}", "{question}", "[INST] {q} [/INST]", "# {question}", "- {question}", "*{question}*", "&a {q}",
    "%{q}", "@{q}", "|{q}", "> {q}", "{q}: {r}", "!{q} ", "Q: {a}: b, c", "{q} 'x", "`{q}`", "? {q}", "--- {q}",
]  # fmt: skip


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_in_an_override_needs_no_quotes(prompt):
    config = load_config(None, [f"data.prompt={prompt}", "data.response=answer"])
    assert config.data.prompt == prompt.strip()


def test_quotes_that_open_and_do_not_enclose_are_refused():
    for word in ('"{q}" please', "'tis {q}", '"{q}'):
        sentence = refusal(f"data.prompt={word}", "data.response=a")
        assert sentence.startswith(f"expected a text in quotes, or without any; found {word}, ")
        right = sentence.rpartition("write ")[2]
        assert load_config(None, [f"data.prompt={right}", "data.response=a"]).data.prompt == word


def test_a_section_left_empty_is_left_out_at_any_depth(file):
    empty = "model:\n  lora:\ntrain:\n  server: ~\nclients:\ndata:\n  partition: null\nmethod:\nrun:\n"
    assert load_config(file(empty)) == load_config()
    assert load_config(file(empty), ["train.rounds=3", "train.server.tau=0.5"]).train.server.tau == 0.5
    assert load_config(file("train:\n"), ["train.rounds=3"]).train.rounds == 3
    assert "train.rounds: input should be a valid integer (found nothing in line 2 of" in refusal(
        path=file("train:\n  rounds:\n")
    )


def test_a_home_and_variables_are_filled_in_where_a_path_is_meant(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA", "/d")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NOPE", raising=False)
    words = ["run.out=~/rr", "data.name=$DATA/x.csv", "data.test=${DATA}/t.csv", "model.name=$HOME", "data.label=$DATA"]
    config = load_config(None, words)
    assert (config.run.out, config.data.name, config.data.test) == (f"{tmp_path}/rr", "/d/x.csv", "/d/t.csv")
    assert (config.model.name, config.data.label) == (str(tmp_path), "$DATA")
    assert load_config(None, ["run.out=~", "run.name=~"]).run.out == str(tmp_path)
    assert load_config({"run": {"out": Path("~/y")}}).run.out == f"{tmp_path}/y"
    for lacking in ("$NOPE", "~nobody-of-this-name"):
        assert f"and {lacking} is not" in refusal(f"run.out={lacking}/x")
    (tmp_path / "$NOPE").mkdir()
    assert expanded("$NOPE", "a folder") == "$NOPE"


def test_a_mapping_of_a_program_is_read_as_a_file_is():
    found = load_config({
        "train": None, "data": {"clients": np.int64(7), "test": np.float64(0.25), "text": ("a", "b")},
        "run": {"out": Path("x"), "name": np.str_("n")}, "model": {"lora": None},
        "clients": {"tiers": ({"share": 1, "blocks": np.int32(2)},)},
    })  # fmt: skip
    assert (found.data.clients, found.data.test, found.data.text) == (7, 0.25, ["a", "b"])
    assert (found.run.out, found.run.name, found.train) == ("x", "n", load_config().train)
    endless = {}
    endless["train"] = endless
    refused = {
        "keys for the sections; found one of type int": {1: 2},
        "keys below train; found one of type NoneType": {"train": {None: 1}},
        "nested at most 50 levels": endless,
        "at most 30 digits; found more": {"train": {"rounds": 10**5000}},
        "found U\\+D800 in it": {"run": {"name": "a\ud800"}},
        "found U\\+0000 in it": {"run": {"out": "a\0b"}},
        r"label: input should be a valid string \(found 1\)\. Write, for example: data.label=1": {"data": {"label": 1}},
        "method.name: input should be a valid string": {"method": {"name": ["x"]}},
    }
    for why, source in refused.items():
        with pytest.raises(ConfigError, match=why):
            load_config(source)


def test_values_of_other_sections_are_read_likewise():
    assert by_type({"epochs": 3, "labels": ["a"], "budget": None}, Consent) == {"epochs": 3, "labels": ["a"]}
