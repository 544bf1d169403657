"""Where the head of a run comes from: before the first round, on the way and at its end."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fedhello.model.compensation import FOLDS
from fedhello.model.drift import estimated_drift, followed
from fedhello.model.evaluation import pooled_features
from fedhello.model.head import family, solved_head
from fedhello.model.statistics import PARTS, HeadSums, Moments, StatisticsSettings, add_up, faded, head_sums, plus
from fedhello.runs import heads as module
from fedhello.runs.loop import rounds, start

MEAN = "model.pooling=mean"
STALE = "model.drift_compensation=false"


def head_of(state):
    return state.adapter.tensors["head.weight"], state.adapter.tensors["head.bias"]


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


PARTITIONS = {
    "4 alike": [],
    "7 alike": ["data.clients=7"],
    "by label": ["data.clients=5", "data.partition={kind: dirichlet, alpha: 0.1, minimum: 1}"],
    "one class each": ["data.partition={kind: pathological, classes_per_client: 1, minimum: 1}"],
}


def test_the_first_head_is_that_of_the_pooled_data_bit_for_bit_however_it_is_split(prepared):
    found = {}
    for name, words in PARTITIONS.items():
        session = prepared("train.loss=cross_entropy", "model.least=1", *words)
        beginning = start(session)
        found[name] = head_of(beginning.state), beginning.head.samples, beginning.head.clients
    session = prepared()
    everybody = np.sort(np.concatenate(list(session.engine.together[1].values())))
    samples = session.engine.together[0].subset(everybody)
    session.model.write(session.initial)
    h = pooled_features(session.model, samples)
    sums = add_up([head_sums(h, torch.from_numpy(samples.labels), 2, StatisticsSettings())], Moments())
    validation = session.server.validation
    pooled = solved_head(
        family(sums, Moments(), "lda"), pooled_features(session.model, validation), torch.from_numpy(validation.labels)
    )
    for name, (head, samples, _) in found.items():
        assert equal(head, (pooled.weight, pooled.bias)), name
        assert samples == len(everybody), name
    assert [clients for _, _, clients in found.values()] == [4, 7, 5, 4]


def test_what_the_head_took_is_counted(prepared):
    session = prepared()
    beginning = start(session)
    contributions = list(session.engine.head_sums())
    assert beginning.head.bytes_up == sum(one.bytes_up for one in contributions)
    assert beginning.head.bytes_down == 0
    assert beginning.state.head_clients == (0, 1, 2, 3)
    d = session.model.logits_layer.in_features
    assert beginning.head.bytes_up > 4 * 4 * (2 + 2 * d + d * (d + 1) // 2)
    fewer = start(prepared("model.moments=diagonal")).head.bytes_up
    least = start(prepared("model.moments=means")).head.bytes_up
    assert beginning.head.bytes_up > fewer > least


def test_a_refreshed_head_is_solved_from_new_sums_and_faded_old_ones(prepared):
    session = prepared("model.refresh=1", "model.forgetting=0.25", "model.final=false", STALE)
    before = start(session).state
    state, result = next(rounds(session, before))
    clients = [report.client for report in result.report.clients]
    assert (result.head.clients, result.head.adopted) == (len(clients), True)
    assert result.head.bytes_down > 0, "the adapter travels to whoever takes features under it"
    new = add_up([one.sums for one in session.engine.head_sums(clients, state.adapter)], Moments())
    total = plus(faded(HeadSums(**before.head_sums), 0.75), new)
    assert all(torch.equal(state.head_sums[name], getattr(total, name)) for name in PARTS)
    assert not equal(head_of(state), head_of(before))


def test_without_a_refresh_a_solved_head_stays_through_training(prepared):
    session = prepared("model.train_head=false", "model.final=false", STALE)
    before = start(session).state
    states = [state for state, _ in rounds(session, before)]
    assert all(equal(head_of(state), head_of(before)) for state in states)
    moved = [n for n, v in before.adapter.tensors.items() if not torch.equal(states[-1].adapter.tensors[n], v)]
    assert moved


@pytest.mark.parametrize(("losses", "adopted"), [([0.5, 0.4], True), ([0.4, 0.5], False)])
def test_the_last_head_is_adopted_only_where_it_is_better_on_validation(prepared, monkeypatch, losses, adopted):
    session = prepared("model.train_head=false", "train.rounds=1", "train.selection=last", STALE)
    before = start(session).state
    found = iter(losses)
    monkeypatch.setattr(module, "_validation_loss", lambda *_: next(found))
    ((state, result),) = rounds(session, before)
    assert (result.head.loss_before, result.head.loss) == tuple(losses)
    assert result.head.adopted == adopted
    assert equal(head_of(state), head_of(before)) != adopted
    assert result.head.clients == 4


def test_both_heads_are_judged_at_their_best_temperature(prepared):
    """Ten times the logits predict the same classes, and a head is not worse for it."""
    session = prepared("model.train_head=false", "train.selection=last", STALE)
    state = start(session).state
    hot = state.adapter.with_tensors({name: 10 * state.adapter.tensors[name] for name in session.model.head_names})
    losses = [module._validation_loss(session, replace(state, adapter=adapter)) for adapter in (state.adapter, hot)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_head_that_trains_travels_and_one_that_does_not_is_left_out(prepared):
    sizes = {}
    for trains in ("true", "false"):
        session = prepared(f"model.train_head={trains}", "model.final=false", STALE)
        before = start(session).state
        state, result = next(rounds(session, before))
        sizes[trains] = {report.client: report.bytes_up for report in result.report.clients}
        assert equal(head_of(state), head_of(before)) != (trains == "true")
    assert sizes["true"].keys() == sizes["false"].keys()
    d = session.model.logits_layer.in_features
    assert all(sizes["true"][k] - size >= 4 * 2 * (d + 1) for k, size in sizes["false"].items())


def test_head_only_commits_rounds_in_which_nobody_takes_part(prepared):
    session = prepared("method.name=head-only")
    before = start(session)
    results = list(rounds(session, before.state))
    assert [(r.report.failed, r.report.clients, r.train_loss) for _, r in results] == [(None, (), None)] * 2
    assert equal(head_of(results[-1][0]), head_of(before.state))
    assert results[-1][1].test == before.test


def test_whoever_comes_late_adds_its_sums_to_a_head_that_is_alone(prepared):
    session = prepared("method.name=head-only")
    whole = start(session)
    some = [one.sums for one in session.engine.head_sums([0, 2])]
    total = add_up(some, Moments())
    sums = {name: getattr(total, name) for name in PARTS}
    state = replace(whole.state, round=2, head_sums=sums, head_clients=(0, 2))
    after, change = module.final_head(session, state)
    assert (change.clients, after.head_clients) == (2, (0, 1, 2, 3))
    assert equal(head_of(after), head_of(whole.state))
    assert module.final_head(session, after) == (after, None)


def test_the_server_alone_asks_nobody(prepared, monkeypatch):
    session = prepared("method.name=server-only")
    monkeypatch.setattr(session.engine, "head_sums", lambda *_: pytest.fail("a client was asked"))
    beginning = start(session)
    assert (beginning.head.clients, beginning.head.bytes_up, beginning.head.bytes_down) == (0, 0, 0)
    assert beginning.head.samples == len(session.server.validation) + len(session.server.proxy)
    assert [result.report.clients for _, result in rounds(session, beginning.state)] == [(), ()]


def test_a_run_with_a_refreshed_head_goes_on_bit_for_bit(workplace, call):
    words = [MEAN, "method.name=rgd-hla", "model.refresh=1", "model.forgetting=0.5", "model.final=false",
             "train.lr_schedule=constant"]  # fmt: skip
    assert call(workplace, "run", "tiny.yaml", *words, "run.name=stopped", "train.rounds=1")[0] == 0
    assert call(workplace, "resume", "runs/stopped", "train.rounds=3")[0] == 0
    assert call(workplace, "run", "tiny.yaml", *words, "run.name=through", "train.rounds=3")[0] == 0
    stopped, through = (workplace / "runs" / name / "adapter" for name in ("stopped", "through"))
    for file in ("adapter_model.safetensors", "head.safetensors"):
        one, other = load_file(stopped / file), load_file(through / file)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one), file
    changes = [
        json.loads((workplace / "runs" / n / "summary.json").read_text())["head"] for n in ("stopped", "through")
    ]
    assert changes[0] == changes[1]


@pytest.mark.parametrize("method", ["head-only", "server-only"])
def test_all_commands_take_a_run_in_which_nobody_trains(workplace, call, method, tmp_path):
    name = f"alone-{method}"
    code, out, err = call(workplace, "run", "tiny.yaml", MEAN, f"method.name={method}", f"run.name={name}", "--json")
    assert code == 0, err
    summary = json.loads(out)
    assert (summary["status"], summary["samples"], summary["samples_per_second"]) == ("finished", 0, None)
    assert summary["final"] == summary["start"]
    assert (summary["bytes_up"] > 0) == (method == "head-only")
    folder = f"runs/{name}"
    for words in (
        ["plan", "tiny.yaml", MEAN, f"method.name={method}"],
        ["report", folder],
        ["evaluate", folder],
        ["predict", folder, "a pear"],
        ["resume", folder],
        ["export", folder, "--out", tmp_path / "adapter"],
        ["export", folder, "--merge", "--out", tmp_path / "merged"],
    ):
        code, out, err = call(workplace, *words)
        assert (code, "Traceback" in err) == (0, False), (words, err)
        if words[0] in ("plan", "evaluate", "predict"):
            code, out, err = call(workplace, *words, "--json")
            assert code == 0, (words, err)
            json.loads(out)


def followed_from(session, state):
    """What the server would make of the clients' sums if it knew nothing but its own samples' features."""
    h = [
        pooled_features(session.model, part) for part in (session.server.validation, session.server.proxy) if len(part)
    ]
    return torch.cat(h).double() / session.model.logits_layer.in_features**0.5


def test_the_head_follows_the_features_and_no_client_is_asked(prepared):
    session = prepared("model.final=false", "train.selection=last")
    before = start(session).state
    session.model.write(before.adapter.tensors)
    x = followed_from(session, before)
    asked = []
    session.engine.head_sums = lambda *words: asked.append(words)
    state, result = next(rounds(session, before))
    assert result.head is None and not asked
    session.model.write(state.adapter.tensors)
    sums = followed(HeadSums(**before.head_sums), Moments(), estimated_drift(x, followed_from(session, state)))
    W, b = family(sums, Moments(), "lda").at(session.drift.base().shrinkage)
    weight, bias = head_of(state)
    t = float(bias.double().norm() / b.norm())
    assert torch.allclose(weight.double(), t * W / W.shape[1] ** 0.5, rtol=1e-4, atol=1e-4)
    assert torch.allclose(bias.double(), t * b, rtol=1e-4, atol=1e-4)
    assert state.head_sums is before.head_sums, "they stay those of the features that clients saw"


def test_a_validation_sample_is_judged_by_a_head_whose_drift_others_estimate(prepared):
    """Its own features may be anything: the others that are left out with it do not change."""
    session = prepared("train.selection=last")
    state = start(session).state
    drift = session.drift
    drift.begin(state)
    n = len(session.server.validation)
    fold = np.empty(len(drift.base().h), dtype=int)
    fold[drift.order] = np.arange(len(fold)) % FOLDS
    other = drift.base().h.clone()
    other[0] += 1.0
    (before, _), (after, _) = (drift._across_folds(drift.base(), h) for h in (drift.base().h, other))
    beside = [i for i in range(1, n) if fold[i] == fold[0]]
    others = [i for i in range(1, n) if fold[i] != fold[0]]
    assert beside and others
    assert torch.allclose(before[beside], after[beside], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(before[others], after[others], rtol=1e-3, atol=1e-3)


def test_where_features_are_not_finite_the_head_stays_and_the_run_says_so(prepared):
    session = prepared("train.rounds=1", "train.selection=last", "model.final=false")
    before = start(session).state
    session.drift.head = lambda adapter: None
    ((state, result),) = rounds(session, before)
    assert equal(head_of(state), head_of(before))
    assert module.NOT_FINITE in result.report.flags
    session = prepared()
    state = start(session).state
    huge = {n: torch.full_like(v, 1e38) for n, v in state.adapter.tensors.items() if "lora_B" in n}
    session.drift.begin(state)
    assert session.drift.head(state.adapter.with_tensors(huge)) is None
    assert not session.drift(state.adapter.with_tensors(huge)).isfinite().any()
