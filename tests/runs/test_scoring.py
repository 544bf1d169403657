import contextlib
import json
from dataclasses import replace

import pytest
import torch

from fedhello import algorithm
from fedhello.client.scoring import ScoreReply
from fedhello.config.load import load_config
from fedhello.errors import ConfigError, EngineError
from fedhello.runs.loop import rounds, start
from fedhello.runs.scoring import Scorer
from fedhello.setup.prepare import prepare

CLIENTS = ["data.proxy=0", "train.rounds=3", "method={name: fim-hla, scores: clients, refresh: 2, score_samples: 5}"]


@pytest.fixture
def session(workplace):
    def build(*overrides):
        with contextlib.chdir(workplace):
            return prepare(load_config(workplace / "tiny.yaml", [*CLIENTS, *overrides]))

    return build


def test_clients_score_without_a_proxy_set_and_a_run_that_goes_on_repeats_every_bit(session):
    there = session()
    assert len(there.server.proxy) == 0
    whole = list(rounds(there, start(there).state))
    assert [result.report.scored for _, result in whole] == [True, False, True]
    assert whole[0][0].scores == whole[1][0].scores != whole[2][0].scores
    bytes_up = [result.report.score_bytes_up for _, result in whole]
    assert bytes_up[0] > 0
    assert bytes_up[1] == whole[1][1].report.score_bytes_down == 0
    here = session()
    start(here)
    ((last, result),) = rounds(here, whole[1][0])  # from the state alone
    assert result.report.scores == whole[2][1].report.scores
    assert all(torch.equal(last.adapter.tensors[name], value) for name, value in whole[2][0].adapter.tensors.items())


def test_the_scores_are_those_of_the_rounds_clients_and_add_to_the_totals(workplace, call):
    words = [*CLIENTS, "train.rounds=1", "--json", "run.name=clients-score"]
    code, out, err = call(workplace, "run", "tiny.yaml", *words)
    assert code == 0, err
    (entry,) = map(json.loads, (workplace / "runs" / "clients-score" / "rounds.jsonl").read_text().splitlines())
    assert entry["scored"]
    assert entry["score_bytes_down"] > entry["score_bytes_up"] > 0
    summary = json.loads(out)
    heads = sum(change["bytes_down"] for change in summary["head"]["changes"])
    assert summary["bytes_down"] == heads + sum(c["bytes_down"] for c in entry["clients"]) + entry["score_bytes_down"]


def test_only_the_sampled_clients_are_asked_under_the_budget_they_are_planned_with(session):
    there = session("clients.tiers=[{share: 1, memory: 100MB}]")
    state = start(there).state
    asked = []
    block_scores = there.engine.block_scores
    there.engine.block_scores = lambda request: asked.append(request) or block_scores(request)
    S_t = algorithm.sample_clients(there.federation, 0)
    Scorer(there)(replace(state, excess={S_t[0].id: 2.0}), S_t)
    assert [k.id for k in asked[0].clients] == [k.id for k in S_t]
    assert [k.budget.memory for k in asked[0].clients] == [50_000_000, 100_000_000]
    assert there.engine.scoring is not None
    assert session().engine.scoring is None  # nothing to fit


def test_where_nobody_contributes_the_last_scores_stay_or_the_run_ends(session):
    there = session()
    state = start(there).state
    there.engine.block_scores = lambda request: (ScoreReply((k.id,), None, "gone", 7, 2) for k in request.clients)
    with pytest.raises(EngineError, match=r"round 1; none came \(client \d: gone; client \d: gone\).*scores=proxy"):
        next(rounds(there, state))
    after, result = next(rounds(there, replace(state, scores=(1.0, 2.0, 3.0))))
    assert result.report.scores == after.scores == (1.0, 2.0, 3.0)
    assert not result.report.scored
    assert (result.report.score_bytes_down, result.report.score_bytes_up) == (14, 4)
    assert result.report.flags[-1] == "no client of the round contributes Fisher scores; the previous scores are used"


def test_who_is_left_out_is_named(session):
    there = session()
    block_scores = there.engine.block_scores

    def without_first(request):
        first, *rest = block_scores(request)
        return [replace(first, sums=None, note="it broke"), *rest]

    there.engine.block_scores = without_first
    state, result = next(rounds(there, start(there).state))
    k = algorithm.sample_clients(there.federation, 0)[0].id
    assert result.report.flags == (f"the Fisher scores do not include client {k}: it broke",)
    assert result.report.scored
    assert len(state.scores) == 3


def test_local_heads_are_scored_through_the_head_that_the_model_holds(session):
    there = session("model.head=local")
    state, result = next(rounds(there, start(there).state))
    assert min(state.scores) >= 0
    assert result.report.flags == ()
    assert any("with the initial head" in note for note in there.notes)


@pytest.mark.parametrize("name", ["fed-hello", "fim-hla", "hralora"])
def test_a_proxy_set_is_asked_for_only_where_it_is_used(name, workplace):
    tiers = ["clients.tiers=[{share: 1, rank: 2}]"] if name == "hralora" else []
    with contextlib.chdir(workplace):
        prepare(
            load_config(workplace / "tiny.yaml", ["data.proxy=0", f"method={{name: {name}, scores: clients}}", *tiers])
        )
        with pytest.raises(ConfigError, match=r"data\.proxy > 0, since .*method\.scores=clients"):
            prepare(load_config(workplace / "tiny.yaml", ["data.proxy=0", f"method={{name: {name}}}", *tiers]))
