"""Case 56: differential privacy. The accounting's own laws are in privacy/test_ledger.py."""

import dataclasses
import json
from collections import Counter
from itertools import pairwise
from math import log
from pathlib import Path

import pytest
import torch
from scipy.stats import beta, kstest

import fedhello as fh
from fedhello.algorithm import sample_clients
from fedhello.client import private_training
from fedhello.engine import local
from fedhello.errors import ConfigError, PrivacyError
from fedhello.methods import METHODS
from fedhello.model.private_sums import PrivateStatistics, length_of, noised, private_sums
from fedhello.model.statistics import UNIT, plus
from fedhello.privacy.banded import coefficients
from fedhello.privacy.ledger import Ledger, Planned, calibrated, read_ledger
from fedhello.privacy.rounds import EARLIER, PrivateRounds, private_method, round_noise
from fedhello.runs.checkpoint import Checkpoints
from fedhello.runs.loop import start
from fedhello.runs.private_heads import ledger_of
from fedhello.runs.private_rounds import released_round, with_lost_rounds

pytest.importorskip("dp_accounting")
THREE = {"train.clients_per_round": 3}
PRIVATE = {"method.name": "head-only", "privacy.epsilon": 4.0}
DELTA = 1e-5


@pytest.fixture
def inside(place, monkeypatch):
    """The working directory: a place with a model, data and ``tiny.yaml``."""
    monkeypatch.chdir(place)


def features(n, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    return torch.randn(n, 6, generator=drawn), torch.randint(3, (n,), generator=drawn)


def test_doubling_a_clients_data_does_not_change_its_largest_influence():
    settings = PrivateStatistics()
    h, y = features(50)
    once = private_sums(h, y, 3, settings)
    twice = private_sums(torch.cat([h, h]), torch.cat([y, y]), 3, settings)
    assert length_of(once) <= settings.most
    assert length_of(twice) <= settings.most
    assert length_of(plus(twice, once, -1)) < 0.02 * settings.most


def test_a_class_that_nobody_has_is_distributed_like_noise():
    """Its released count and sum are Gaussian of deviation σC, like every other entry."""
    settings = PrivateStatistics()
    h, y = features(400)
    total = private_sums(h, y.clamp_max(1), 3, settings)
    drawn = [noised(total, 2.0) for _ in range(300)]
    empty = torch.stack([torch.cat([one.counts[2:], one.features[2]]) for one in drawn]) * UNIT / 2.0
    full = torch.stack([one.features[0] - total.features[0] for one in drawn]) * UNIT / 2.0
    assert kstest(empty.flatten().numpy(), "norm").pvalue > 1e-4
    assert kstest(full.flatten().numpy(), "norm").pvalue > 1e-4


@pytest.mark.usefixtures("inside")
def test_noise_cannot_be_drawn_again_from_configuration_and_seed():
    """Two runs of one configuration release different sums; without a budget they are the same, bit for bit."""
    for words, same in ((PRIVATE, False), ({"method.name": "head-only"}, True)):
        session = fh.prepare("tiny.yaml", words)
        one, other = (start(session).state.head_sums["features"] for _ in range(2))
        assert torch.equal(one, other) is same


@pytest.mark.usefixtures("inside")
def test_a_resumed_run_goes_on_with_its_ledger_and_its_head():
    words = PRIVATE | {"run.name": "one", "train.rounds": 3}
    stop = fh.EarlyStopping(patience=1)
    run = fh.run("tiny.yaml", words, callbacks=[stop])
    before = Checkpoints(run.path / "checkpoints").latest(print)
    assert before.state.round < 3
    (run.path / "summary.json").unlink()
    after = fh.resume(run.path)
    state = Checkpoints(run.path / "checkpoints").latest(print).state
    assert state.round == 3
    assert state.releases == before.state.releases and len(state.releases) == 1
    assert torch.equal(state.head_sums["features"], before.state.head_sums["features"])
    assert after.summary.privacy == run.summary.privacy
    assert after.summary.privacy["epsilon"] == pytest.approx(4, rel=1e-3)


@pytest.mark.usefixtures("inside")
def test_a_spent_budget_releases_nothing_more():
    session = fh.prepare("tiny.yaml", PRIVATE)
    state = start(session).state
    with pytest.raises(PrivacyError, match=r"expected privacy\.epsilon=4 to cover head statistics"):
        ledger_of(session.private, state).spent(session.private.head)


@pytest.mark.usefixtures("inside")
def test_where_single_samples_are_protected_the_ledger_and_the_card_say_so():
    run = fh.run(
        "tiny.yaml", PRIVATE | {"privacy.unit": "sample", "privacy.secure": True, "run.name": "samples"} | THREE
    )
    assert read_ledger(run.summary.privacy).unit == run.summary.privacy["unit"] == "sample"
    assert "differentially private for single samples" in (run.path / "adapter" / "README.md").read_text()
    assert not any("are few" in note for note in run.summary.notes)


@pytest.mark.usefixtures("inside")
def test_epsilon_is_said_and_kept_when_a_run_fails(caplog):
    class Fails(fh.Callback):
        def on_round(self, state, record):
            raise RuntimeError("on purpose")

    with pytest.raises(fh.CallbackError):
        fh.run("tiny.yaml", PRIVATE | {"run.name": "failed"}, callbacks=[Fails()])
    assert "differentially private for clients with ε=4 at δ=1e-05" in caplog.text
    summary = json.loads(Path("runs/failed/summary.json").read_text())
    assert summary["status"] == "failed"
    assert read_ledger(summary["privacy"]).epsilon == pytest.approx(4, rel=1e-3)


@pytest.mark.usefixtures("inside")
def test_no_file_tells_of_a_single_client_and_the_model_card_of_the_guarantee():
    run = fh.run("tiny.yaml", PRIVATE | {"run.name": "told"})
    clients = json.loads((run.path / "clients.json").read_text())["clients"]
    assert [(one["samples"], one["labels"]) for one in clients] == [(0, [])] * 4
    for line in (run.path / "rounds.jsonl").read_text().splitlines():
        assert json.loads(line)["clients"] == []
    head = json.loads((run.path / "summary.json").read_text())["head"]["changes"][0]
    assert head["samples"] == head["left_out"] == 0
    assert "Privacy: differentially private for clients with ε=4 at" in (run.path / "adapter" / "README.md").read_text()
    plan = fh.plan(fh.prepare("tiny.yaml", PRIVATE))
    assert plan.clients == ()
    assert any("4 clients are few" in note for note in plan.notes)
    with pytest.raises(ConfigError, match="sums without noise"):
        run.forget([0])


TRAINS = {"privacy.epsilon": 8.0, "train.sampling": "poisson", "train.clients_per_round": 2, "train.rounds": 3}


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize("secure", [False, True])
def test_every_round_is_in_the_ledger_and_tells_of_no_client(secure):
    words = TRAINS | {"train.clients_per_round": 4, "privacy.secure": secure, "run.name": "trains"}
    run = fh.run("tiny.yaml", words | {"train.server.name": "none"})
    ledger = read_ledger(run.summary.privacy)
    assert [(one.name, one.rate, one.times) for one in ledger.releases] == [("head statistics", 1, 1), ("rounds", 1, 3)]
    assert 7.9 < ledger.epsilon <= 8.0
    for line in (run.path / "rounds.jsonl").read_text().splitlines():
        found = json.loads(line)
        assert found["train_loss"] is None and found["clients"]
        assert all((one["samples"], one["metrics"]) == (1, {}) for one in found["clients"])


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize("secure", [False, True])
def test_scores_of_clients_are_a_release_of_their_own(secure):
    """In the second case a round has too few clients for a secure sum, and noise is released alone."""
    words = TRAINS | {"method.name": "fim-hla", "method.scores": "clients", "method.refresh": 2, "run.name": "scored"}
    if secure:
        words |= {"privacy.secure": True, "train.clients_per_round": 3}
    run = fh.run("tiny.yaml", words)
    ledger = read_ledger(run.summary.privacy)
    found = {one.name: one.times for one in ledger.releases}
    assert found == {"head statistics": 1, "Fisher scores": 2, "rounds": 3}
    assert 7.9 < ledger.epsilon <= 8.0
    first = run.rounds[0].report
    assert first.scored and len(first.scores) == 3 and min(first.scores) >= 0


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize("secure", [False, True])
def test_a_client_that_fails_contributes_nothing_and_nobody_is_told_why(secure, monkeypatch, caplog):
    """Else its data would decide whether the others' contributions count, and its error would tell of them."""
    real = local.local_training

    def failing(model, work, settings):
        if work.client == 1:
            raise ValueError("a sentence with a name in it")
        return real(model, work, settings)

    monkeypatch.setattr(local, "local_training", failing)
    words = TRAINS | {"train.clients_per_round": 4, "train.rounds": 1, "privacy.secure": secure, "run.name": "fails"}
    run = fh.run("tiny.yaml", words)
    (record,) = run.rounds
    assert [one.client for one in record.report.clients] == [0, 1, 2, 3] and not record.report.rejections
    assert len({one.bytes_up for one in record.report.clients if len(one.blocks) == 1}) == 1
    assert "contributes no change to round 0: a sentence" in caplog.text
    assert all("a sentence" not in file.read_text() for file in run.path.glob("*.json*"))
    assert not any(flag.startswith("the secure sum failed") for flag in run.summary.flags)


SAMPLES = {"privacy.epsilon": 8.0, "privacy.unit": "sample", "train.clients_per_round": 3, "train.rounds": 3}


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize("secure", [False, True])
def test_steps_on_samples_are_in_the_ledger_of_each_client_and_nothing_else_of_them_leaves(secure):
    run = fh.run("tiny.yaml", SAMPLES | {"privacy.secure": secure, "run.name": "samples trained"})
    ledger, part_of = read_ledger(run.summary.privacy), Counter(k.client for r in run.rounds for k in r.report.clients)
    steps = {one.client: one.times for one in ledger.releases if one.name == "steps on single samples"}
    each = fh.prepare("tiny.yaml", SAMPLES).private.steps
    assert steps == {k: each.steps * times for k, times in part_of.items()}
    assert sum(part_of.values()) == 9 and max(part_of.values()) == 3
    assert 7.9 < ledger.epsilon <= 8.0
    for line in (run.path / "rounds.jsonl").read_text().splitlines():
        found = json.loads(line)
        assert found["train_loss"] is None and len(found["clients"]) == 3
        assert all((one["samples"], one["metrics"]) == (1, {}) for one in found["clients"])
    card = (run.path / "adapter" / "README.md").read_text()
    assert "how many samples each client has is taken as known; released: head statistics, steps on single" in card


@pytest.mark.usefixtures("inside")
def test_steps_on_samples_resume_their_ledger_and_stop_before_the_budget_is_exceeded():
    """Also an attempt that fails is in it, and rounds that a checkpoint does not know count for everybody."""
    stop, words = fh.EarlyStopping(patience=1), SAMPLES | {"train.rounds": 4, "run.name": "samples resumed"}
    run = fh.run("tiny.yaml", words, callbacks=[stop])
    before = Checkpoints(run.path / "checkpoints").latest(print).state
    assert 0 < before.round < 4 and len(before.releases) > 1
    (run.path / "summary.json").unlink()
    after = fh.resume(run.path)
    session = fh.prepare("tiny.yaml", words)
    drawn = Counter(client.id for t in range(4) for client in sample_clients(session.federation, t))
    done = Checkpoints(run.path / "checkpoints").latest(print).state
    each = session.private.steps
    assert {one.client: one.times for one in done.releases[1:]} == {k: each.steps * n for k, n in drawn.items()}
    assert done.method_state["privacy/clip"] == before.method_state["privacy/clip"]
    assert after.summary.privacy["epsilon"] <= 8.0
    most = max(drawn, key=drawn.get)
    fresh = dataclasses.replace(done, releases=done.releases[:1])
    for attempt in range(1, 5):
        entered = released_round(session, dataclasses.replace(fresh, round=0, attempt=attempt)).releases[1:]
        assert [one.client for one in entered] == [k.id for k in sample_clients(session.federation, 0, attempt)]
    with pytest.raises(PrivacyError, match=r"expected privacy\.epsilon=8 to cover steps on single samples"):
        for attempt in range(50):
            done = released_round(session, dataclasses.replace(done, round=0, attempt=attempt))

    def steps_of(state):
        return sum(one.times for one in state.releases if one.client == most)

    assert steps_of(with_lost_rounds(session, before, 2)) == steps_of(before) + 2 * each.steps


@pytest.mark.usefixtures("inside")
def test_a_client_that_fails_on_its_samples_sends_its_noise(monkeypatch, caplog):
    real = private_training.clipped_sum

    def failing(model, parameters, data, *rest):
        if failing.calls:
            failing.calls -= 1
            raise ValueError("a sentence with a name in it")
        return real(model, parameters, data, *rest)

    failing.calls = 2
    monkeypatch.setattr(private_training, "clipped_sum", failing)
    run = fh.run("tiny.yaml", SAMPLES | {"train.rounds": 1, "run.name": "samples fail"})
    (record,) = run.rounds
    assert len(record.report.clients) == 3 and not record.report.rejections
    assert "contributes no change to a step of round 0: a sentence" in caplog.text
    assert all("a sentence" not in file.read_text() for file in run.path.glob("*.json*"))


@pytest.mark.usefixtures("inside")
def test_who_takes_part_cannot_be_drawn_again_from_the_seed():
    session = fh.prepare("tiny.yaml", TRAINS | {"train.rounds": 1})
    asked = {tuple(client.id for client in sample_clients(session.federation, 0)) for _ in range(40)}
    assert len(asked) > 5
    assert {client.samples for client in session.federation.clients} == {1}


@pytest.mark.usefixtures("inside")
def test_a_run_that_trains_resumes_its_ledger_and_stops_before_the_budget_is_exceeded():
    stop = fh.EarlyStopping(patience=1)
    run = fh.run("tiny.yaml", TRAINS | {"run.name": "two", "train.rounds": 4}, callbacks=[stop])
    before = Checkpoints(run.path / "checkpoints").latest(print).state
    assert 0 < before.round < 4 and before.releases[1].times == before.round
    (run.path / "summary.json").unlink()
    after = fh.resume(run.path)
    assert read_ledger(after.summary.privacy).releases[1].times == 4
    session = fh.prepare("tiny.yaml", TRAINS | {"train.rounds": 4})
    done = Checkpoints(run.path / "checkpoints").latest(print).state
    with pytest.raises(PrivacyError, match=r"expected privacy\.epsilon=8 to cover rounds"):
        next(fh.rounds(session, dataclasses.replace(done, round=3)))


@pytest.mark.usefixtures("inside")
def test_banded_noise_costs_one_release_in_so_many_rounds_and_is_kept_for_those_after_a_resume():
    words = TRAINS | {"run.name": "turns", "train.rounds": 4, "train.sampling": "fixed", "train.clients_per_round": 2}
    words |= {"privacy.mechanism": "banded", "privacy.band": 2}
    run = fh.run("tiny.yaml", words, callbacks=[fh.EarlyStopping(patience=1)])
    before = Checkpoints(run.path / "checkpoints").latest(print).state
    assert 0 < before.round < 4
    noise = {name: value for name, value in before.method_state.items() if name.startswith(EARLIER)}
    assert noise and all(value.shape[0] == 1 and value.dtype == torch.float64 for value in noise.values())
    assert all("lora_A" not in name for name in noise)
    (run.path / "summary.json").unlink()
    after = fh.resume(run.path)
    ledger = read_ledger(after.summary.privacy)
    assert (ledger.releases[1].name, ledger.releases[1].rate, ledger.releases[1].times) == ("rounds", 1.0, 2)
    assert ledger.epsilon <= 8 * (1 + 1e-6)
    clients = [[one.client for one in record.report.clients] for record in after.rounds]
    assert all(not set(a) & set(b) for a, b in pairwise(clients))


def released_heads(noise, repeats):
    """Return what a canary's direction shows of a head's releases with it and without it."""
    settings = PrivateStatistics()
    others = private_sums(*features(30, 1), 3, settings)
    canary = private_sums(torch.ones(40, 6), torch.full((40,), 2), 3, settings)
    direction = canary.features[2].double() * UNIT
    return [
        torch.stack([noised(total, noise * settings.most).features[2] @ direction for _ in range(repeats)])
        for total in (plus(others, canary), others)
    ]


def released_rounds(noise, repeats):
    """The same of rounds of two clients with q = 1, of which one changes one tensor as far as it may, and further."""
    method = private_method(
        METHODS["gd-hla"].bind(), PrivateRounds(fh.Release("rounds", noise), 1.0, 0.1, factors="AB")
    )
    tier = fh.Budget(blocks=1)
    clients = tuple(fh.Client(k, 0, tier, samples=1) for k in range(2))
    federation = fh.Federation(clients, (tier,), num_blocks=1, clients_per_round=2, seed=0, quorum=0)
    start = fh.Adapter({"a.lora_A.weight": torch.zeros(1, 6), "a.lora_B.weight": torch.zeros(6, 1)}, ROUND_BLOCKS)
    allocations = {k: method.allocate(fh.AllocationContext(client, federation, 0)) for k, client in enumerate(clients)}
    context = fh.AggregationContext(start, federation, 0, allocations)
    updates = [
        fh.Update(k, 0, 1, {name: torch.full_like(value, size) for name, value in start.tensors.items()})
        for k, size in enumerate((0.01, 50.0))
    ]

    def seen(came):
        return method.aggregate(context, came).adapter.tensors["a.lora_A.weight"].sum()

    return [torch.stack([seen(came) for _ in range(repeats)]).double() for came in (updates, updates[:1])]


def released_bands(noise, repeats):
    """The same of three rounds with a band of three, with a client in the first, as far as its strategy shows."""
    c = coefficients(3) / coefficients(3).norm()

    def seen(there):
        state, z = {}, []
        for _ in range(3):
            drawn, state = round_noise({"a": (1,)}, state, band=3)
            z.append(noise * float(drawn["a"]))
        z[0] = z[0] + there
        return sum(c[t] * sum(c[j] * z[t - j] for j in range(t + 1)) for t in range(3))

    return [torch.stack([seen(there) for _ in range(repeats)]) for there in (1.0, 0.0)]


ROUND_BLOCKS = {"a.lora_A.weight": 0, "a.lora_B.weight": 0}


def audit(there, gone):
    """Return a lower bound, with confidence 99 %, of ε of releases with and without a canary client."""
    # The threshold is chosen on one half, and the bound found on the other.
    half = len(there) // 2
    best = max(
        torch.cat([there[:half], gone[:half]]).quantile(torch.linspace(0.02, 0.98, 49, dtype=torch.float64)).tolist(),
        key=lambda t: bound(there[:half] > t, gone[:half] > t),
    )
    return bound(there[half:] > best, gone[half:] > best)


def bound(there, gone):
    n, hits, false = len(there), int(there.sum()), int(gone.sum())
    least = beta.ppf(0.005, hits, n - hits + 1) if hits else 0.0
    most = beta.ppf(0.995, false + 1, n - false) if false < n else 1.0
    return log(max(least - DELTA, 1e-9) / most)


@pytest.mark.parametrize("released", [released_heads, released_rounds, released_bands])
def test_an_audit_with_a_canary_finds_no_more_than_the_claim_and_finds_missing_noise(released):
    (release,) = calibrated([Planned("head statistics", 1.0)], 1.0, DELTA)
    claim = Ledger(1.0, DELTA, (release,)).epsilon
    assert 0.99 < claim <= 1
    assert audit(*released(release.noise, 800)) <= claim
    assert audit(*released(release.noise / 10, 800)) > claim
