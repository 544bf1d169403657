"""A language model from a folder, tuned on instructions, from the configuration to the answers."""

import json

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import fedhello as fh
from fedhello.config.load import load_config
from fedhello.config.settings import model_settings
from fedhello.data import cache
from fedhello.data.dataset import DataSet
from fedhello.model.generation import generate, stops
from fedhello.setup.encoding import encode, questions
from fedhello.setup.model import load_model
from fedhello.setup.prepare import prepare

COLOURS = {"apple": "red", "lemon": "yellow", "leaf": "green", "sky": "blue"}
NUMBERS = [f"n{i}" for i in range(20)]
CONFIG = """
model: {name: ./speaker, lora: {rank: 8, alpha: 32, targets: all-linear}}
data:
  name: questions.jsonl
  prompt: which colour has the {thing} {number}
  response: colour
  clients: 4
  proxy: 4
  max_length: 24
  answers: 12
  answer_tokens: 3
  partition: {kind: iid}
clients: {tiers: [{share: 1/2, blocks: 1}, {share: 1/2, blocks: 2}]}
train: {rounds: 8, clients_per_round: 4, lr: 3e-2, batch_size: 8, epochs: 4}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory, make_speaker):
    place = tmp_path_factory.mktemp("language")
    make_speaker(place / "speaker", [*COLOURS, *COLOURS.values(), "which", "colour", "has", "the", *NUMBERS], blocks=2)
    rows = [{"thing": t, "number": n, "colour": c} for n in NUMBERS for t, c in COLOURS.items()]
    (place / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (place / "language.yaml").write_text(CONFIG)
    return place


@pytest.fixture(scope="module")
def finished(place, call):
    code, out, err = call(place, "run", "language.yaml", "run.name=first", "--json")
    assert code == 0, err
    return json.loads(out)


def test_a_language_model_learns_to_answer(finished):
    assert finished["metric"] == "test token accuracy"
    assert finished["model_kind"] == "causal-lm"
    assert finished["final"] > finished["start"]
    assert finished["final_scores"]["more"]["perplexity"] < finished["start_scores"]["more"]["perplexity"]
    assert finished["rouge_l"]["samples"] == 12
    assert finished["rouge_l"]["after"] > finished["rouge_l"]["before"]


def test_answers_before_and_after_are_kept(place, finished):
    rows = [json.loads(line) for line in (place / "runs/first/answers.jsonl").read_text().splitlines()]
    assert len(rows) == 12
    assert all(row["prompt"].startswith("which colour has the ") for row in rows)
    assert all(row["reference"] in COLOURS.values() for row in rows)
    assert [row["before"] for row in rows] != [row["after"] for row in rows]


def test_the_prompts_to_answer_are_drawn_from_the_whole_test_set(place):
    rows = tuple((f"prompt {i}", "response") for i in range(400))
    data = DataSet(rows, np.zeros(400, dtype=int), ("",), "instructions")
    config = load_config(place / "language.yaml", ["data.answers=20"])
    test = np.arange(100, 400)
    asked = [rows.index(question) for question in questions(data, test, config.data.answers)]
    assert len(set(asked)) == 20
    assert asked == sorted(asked)
    assert asked[0] >= 100
    assert asked[-1] >= 300
    assert len(questions(data, test[:5], config.data.answers)) == 5


def test_evaluate_reads_the_same_scores_back(place, finished, call):
    code, out, _ = call(place, "evaluate", "runs/first", "--json")
    assert code == 0
    test = json.loads(out)["test"]
    assert test["accuracy"] == finished["final"]
    assert test["perplexity"] == pytest.approx(finished["final_scores"]["more"]["perplexity"], rel=1e-5)
    assert test["rouge_l"] == finished["rouge_l"]["after"]


def test_predict_answers_prompts(place, finished, call):
    kept = [json.loads(line) for line in (place / "runs/first/answers.jsonl").read_text().splitlines()]
    code, out, _ = call(place, "predict", "runs/first", *(row["prompt"] for row in kept), "--json")
    assert code == 0
    assert [row["answer"] for row in json.loads(out)] == [row["after"] for row in kept]


def test_prompts_that_are_cut_are_said(place, finished, call, monkeypatch):
    code, out, err = call(place, "predict", "runs/first", "which colour " * 20, "which colour", "--json")
    assert code == 0
    assert len(json.loads(out)) == 2
    assert "note: 1 of 2 prompts to answer were cut to 24 tokens\n" in err
    monkeypatch.chdir(place)
    notes = prepare(load_config(place / "language.yaml", ["data.answer_tokens=56"])).notes
    assert "12 of 12 prompts to answer were cut to 8 tokens" in notes
    assert not any("prompts" in note for note in prepare(load_config(place / "language.yaml")).notes)


def test_answers_end_where_model_tokenizer_or_template_say(place, monkeypatch):
    monkeypatch.chdir(place)
    model = load_model(model_settings(load_config(place / "language.yaml")), (), "causal-lm")
    base, tokenizer = model.module.get_base_model(), model.tokenizer
    end, turn, red = tokenizer.convert_tokens_to_ids(["<end>", "<user>", "red"])
    how = base.generation_config
    how.eos_token_id = None
    assert stops(model) == [end]
    tokenizer.chat_template = tokenizer.chat_template.replace("<end>", "<user>")
    assert stops(model) == sorted([end, turn])
    base.lm_head.register_forward_hook(lambda *_: torch.eye(len(tokenizer))[red].view(1, 1, -1))
    assert generate(model, ["which colour"], 3, 24) == ["red red red"]
    how.eos_token_id = [end, red]
    assert generate(model, ["which colour"], 3, 24) == ["red"]


def test_a_template_with_the_date_of_today_is_tokenised_anew_tomorrow(place, monkeypatch, tmp_path):
    monkeypatch.chdir(place)
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path))
    monkeypatch.setattr(cache, "LEAST", 2)
    config = load_config(place / "language.yaml")
    model = load_model(model_settings(config), (), "causal-lm")
    write = model.tokenizer.apply_chat_template
    data = DataSet((("which", "red"), ("colour", "blue")), np.zeros(2, dtype=int), ("",), "instructions")
    found = []
    for today in ("n1", "n1", "n2"):
        monkeypatch.setattr(
            model.tokenizer, "apply_chat_template", lambda *a, today=today, **kw: f"{today} {write(*a, **kw)}"
        )
        samples, _ = encode(data, model, config.data.max_length, config.data.answer_tokens)
        found.append((model.tokenizer.decode(samples.tokens[0][:1]), len(list((tmp_path / "tokens").iterdir()))))
    assert found == [("n1", 1), ("n1", 1), ("n2", 2)]


def test_second_texts_are_refused(place, finished, call):
    code, _, err = call(place, "predict", "runs/first", "which colour", "--pair", "has")
    assert code == 2
    assert "no second texts" in err


def test_peft_and_transformers_load_what_is_saved_and_exported(place, finished, call):
    code, _, err = call(place, "export", "runs/first", "--merge", "--out", "merged")
    assert code == 0, err
    tokenizer = AutoTokenizer.from_pretrained(place / "merged")
    batch = tokenizer("<user> which colour has the sky n1 <end> <assistant>", return_tensors="pt")
    base = AutoModelForCausalLM.from_pretrained(place / "speaker")
    adapted = PeftModel.from_pretrained(base, place / "runs/first/adapter").eval()
    merged = AutoModelForCausalLM.from_pretrained(place / "merged").eval()
    assert merged.config.use_cache
    with torch.inference_mode():
        one, other = (model(input_ids=batch["input_ids"]).logits for model in (adapted, merged))
    assert torch.allclose(one, other, atol=1e-4)


def test_the_plan_states_the_bytes_of_responses(place, call):
    code, out, err = call(place, "plan", "language.yaml", "clients.tiers=[{share: 1, memory: 80MB}]", "--json")
    assert code == 0, err
    assert json.loads(out)["tiers"]


def test_several_models_are_not_asked_again(place, call):
    words = ["method.name=local-only", "train.rounds=1", "run.name=several"]
    code, out, err = call(place, "run", "language.yaml", "--json", *words)
    assert code == 0, err
    found = json.loads(out)
    assert found["rouge_l"] is None
    assert "the run has several models, which do not answer the test prompts after training" in found["notes"]
    code, out, err = call(place, "evaluate", "runs/several", "--json")
    assert code == 0, err
    assert json.loads(out)["test"]["accuracy"] == pytest.approx(found["final"])


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["model.head=prototypes"], "expected model.head to be 'none' for instruction data"),
        (["train.loss=restricted"], "expected train.loss to be 'cross_entropy' for instruction data"),
        (["data.answer_tokens=64"], "leave room for a prompt within 64 tokens"),
        (["data.max_length=65"], "at most 64"),
        (["data.max_length=6"], "leave room for a response"),
        (["data.prompt=which colour has the {fruit}"], "'fruit'"),
        (["data.response=null"], "prompt without response"),
        (["method={name: helora-kd}", "data.public=8", "clients.tiers=[{share: 1, rank: 4}]"], "language models"),
    ],
)
def test_bad_input_is_one_sentence(overrides, expected, place, call):
    code, _, err = call(place, "run", "language.yaml", *overrides, "--dry-run")
    assert code in (2, 3), err
    assert expected in err
    assert "Traceback" not in err


def test_task_instruction_without_prompts_is_refused(call, workplace):
    code, _, err = call(workplace, "run", "tiny.yaml", "model.task=instruction", "--dry-run")
    assert code == 2
    assert "data.prompt" in err


def test_rounds_that_are_not_scored_are_checked_for_numbers_that_are_none(place, monkeypatch):
    monkeypatch.chdir(place)
    session = fh.prepare("language.yaml", {"train.rounds": 3, "train.evaluate_every": 3})
    found = [record.validation for _, record in fh.rounds(session, fh.start(session).state)]
    assert [one is None for one in found] == [True, True, False]


def test_a_language_model_that_is_saved_by_hand_goes_on(place, finished, monkeypatch):
    monkeypatch.chdir(place)
    session = fh.prepare("language.yaml", {"train.rounds": 3, "run.name": "by-hand"})
    start, records = fh.start(session), []
    for state, record in fh.rounds(session, start.state):
        records.append(record)
        if state.round == 2:
            break
    fh.save(session, state, "runs/by-hand", start=start, records=records)
    done = fh.resume("runs/by-hand")
    assert (done.summary.status, done.summary.rounds) == ("finished", 3)
    assert done.predict(["which colour has the sky n3"])[0].answer is not None
