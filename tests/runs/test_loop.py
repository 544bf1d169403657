import contextlib
import json
from dataclasses import replace

import pytest
import torch

from fedhello.config.load import load_config
from fedhello.runs import loop as module
from fedhello.runs.loop import evaluate_adapter, rounds, start
from fedhello.setup.prepare import prepare


@pytest.mark.parametrize(("autocast", "expected"), [("none", torch.float32), ("bfloat16", torch.bfloat16)])
def test_evaluation_runs_in_the_number_type_of_training(autocast, expected, workplace):
    with contextlib.chdir(workplace):
        session = prepare(load_config(workplace / "tiny.yaml", [f"train.autocast={autocast}"]))
    found = set()
    query = next(m for name, m in session.model.module.named_modules() if name.endswith("query.base_layer"))
    query.register_forward_hook(lambda module, inputs, output: found.add(output.dtype))
    validation, test = evaluate_adapter(session, session.model.snapshot(share_head=True))
    assert found == {expected}
    assert validation.loss > 0
    assert test.samples == len(session.server.test)


def test_fewer_proxy_samples_than_classes_are_noted(workplace):
    with contextlib.chdir(workplace):
        session = prepare(load_config(workplace / "tiny.yaml", ["data.proxy=1"]))
    assert len(session.server.proxy) == 1
    assert "the proxy data has 1 of 2 classes, since data.proxy is 1" in session.notes


def test_heads_of_which_the_test_data_has_no_class_are_left_out_and_noted(workplace, call):
    """Clients of one class each; the test file has the one class only."""
    (workplace / "fruit.csv").write_text("text,label\n" + "".join(f"a new apple {i},fruit\n" for i in range(6)))
    words = [
        "model.head=local", "method.name=rgd-hla", "train.loss=cross_entropy", "data.test=fruit.csv",
        "data.partition={kind: pathological, classes_per_client: 1, minimum: 1}",
    ]  # fmt: skip
    code, out, err = call(workplace, "run", "tiny.yaml", "--json", "run.name=one-sided", *words)
    assert code == 0, err
    found = json.loads(out)
    assert found["final_scores"]["samples"] == 6 * 2
    noted = [note for note in found["notes"] if "heads are not scored on it" in note]
    assert len(noted) == 1
    assert noted[0].startswith("the test data has no sample of the classes of clients ")


# how often rounds are scored


def test_what_is_scored_has_no_influence_on_training(workplace, call):
    """Rounds 2, 4 and the last, 5, are scored, and are worth what they are worth where each is."""
    found = {}
    for every in (1, 2):
        words = [f"train.evaluate_every={every}", f"run.name=every-{every}", "train.rounds=5", "--json"]
        code, out, err = call(workplace, "run", "tiny.yaml", *words)
        assert code == 0, err
        folder = workplace / "runs" / f"every-{every}"
        lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
        found[every] = json.loads(out), lines, (folder / "adapter" / "adapter_model.safetensors").read_bytes()
    (_, all_lines, adapter), (summary, lines, same) = found[1], found[2]
    assert same == adapter
    for part in ("validation", "test"):
        expected = [line[part] if t in (1, 3, 4) else None for t, line in enumerate(all_lines)]
        assert [line[part] for line in lines] == expected
    accuracies = [all_lines[t]["test"]["accuracy"] for t in (1, 3, 4)]
    assert summary["mean_last_5"] == pytest.approx(sum(accuracies) / 3)
    assert (summary["final"], summary["final_scores"]) == (accuracies[-1], all_lines[-1]["test"])
    best = max((1, 3, 4), key=lambda t: all_lines[t]["validation"]["accuracy"])
    assert (summary["best_round"], summary["best_on_validation"]) == (best, all_lines[best]["test"]["accuracy"])
    assert "round 3: test –, validation –, loss" in (workplace / "runs" / "every-2" / "log.txt").read_text()


def test_a_run_that_goes_on_counts_no_round_that_was_its_last_but_is_none_of_the_scored(workplace, call):
    words = ["train.evaluate_every=2", "train.lr_schedule=constant", "model.final=false", "run.name=longer"]
    words += ["train.rounds=3"]
    assert call(workplace, "run", "tiny.yaml", *words)[0] == 0
    code, out, err = call(workplace, "resume", "runs/longer", "train.rounds=6", "--json")
    assert code == 0, err
    code, whole, err = call(
        workplace, "run", "tiny.yaml", *words[:3], "run.name=whole-longer", "train.rounds=6", "--json"
    )
    assert code == 0, err
    for key in ("mean_last_5", "best_on_validation", "best_round", "final_scores"):
        assert json.loads(out)[key] == json.loads(whole)[key], key


def test_an_interrupted_run_says_nothing_of_a_round_that_was_not_scored(workplace):
    from fedhello.runs.console import _result_line
    from fedhello.runs.summarise import summarise

    with contextlib.chdir(workplace):
        session = prepare(load_config(workplace / "tiny.yaml", ["train.evaluate_every=2", "train.rounds=4"]))
    beginning = start(session)
    results = [result for _, (_, result) in zip(range(1), rounds(session, beginning.state), strict=False)]
    summary = summarise(session, beginning, results, wall_seconds=1.0, status="interrupted")
    assert [getattr(summary, key) for key in ("final", "final_scores", "mean_last_5", "best_on_validation")] == [
        None
    ] * 4
    assert "– of the selected adapter" in _result_line(summary)


@pytest.mark.parametrize("head", ["aggregate", "local"])
def test_what_has_not_changed_is_not_scored_again(head, workplace, monkeypatch):
    words = [f"model.head={head}", "method.name=rgd-hla"]
    with contextlib.chdir(workplace):
        session = prepare(load_config(workplace / "tiny.yaml", words))
    state = start(session).state
    asked = []
    monkeypatch.setattr(module, "evaluate_adapter", lambda session, adapter, heads: asked.append(adapter) or len(asked))
    scores = module._Scores(session)
    same = replace(state, round=1, adapter=state.adapter.with_tensors({}))
    assert [scores.of(state), scores.of(same)] == [1, 1]
    name, value = next(iter(state.adapter.tensors.items()))
    assert scores.of(replace(state, adapter=state.adapter.with_tensors({name: value.clone()}))) == 2
    if head == "local":
        assert scores.of(replace(same, personal_heads={0: {"weight": torch.zeros(1)}})) == 3, (
            "the heads are another part of what is scored"
        )
