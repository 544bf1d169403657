"""Steps on single samples over the messages of a network, and a client that counts what leaves of its samples."""

import json
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fedhello.client import private_training
from fedhello.config.load import load_config
from fedhello.engine.wire import decode_task, encode_task
from fedhello.errors import ConfigError, PrivacyError, QuorumError
from fedhello.methods import METHODS
from fedhello.model import private_sums
from fedhello.network.consent import Consent, read_consent
from fedhello.network.messages import PROTOCOL
from fedhello.network.own_ledger import own_ledger
from fedhello.network.refusals import RefusalError
from fedhello.network.server import play_over
from fedhello.runs.folder import RunFolder
from fedhello.runs.runner import run_session
from fedhello.setup.prepare import load, prepare
from fedhello.types import Adapter, Allocation, NoisySteps, Task
from network import config_of, network_of

SAMPLES = [
    *("privacy.secure=true", "privacy.epsilon=8", "privacy.unit=sample", "train.loss=cross_entropy"),
    *("model.head=solved", "model.train_head=false", "train.batch_size=2"),
]


@pytest.fixture
def net(place):
    from machines import CONFIG

    (place / "net.yaml").write_text(CONFIG)
    return place


def played(place, *words):
    network = network_of()
    folder = RunFolder(place / "runs" / "net")
    return network, folder, play_over(network, load(config_of(place, *SAMPLES, *words)), folder, [], lambda line: None)


def test_a_run_is_that_of_one_machine_but_for_the_noise(net, monkeypatch):
    """Without noise, and with every sample in every step, nothing but the rounding of masked numbers is left."""
    for module in (private_training, private_sums):
        monkeypatch.setattr(module, "gaussian", lambda shape, _: torch.zeros(shape, dtype=torch.float64))
    everybody = type("Everybody", (), {"random": lambda _, n: np.zeros(n), "integers": lambda *_: 0})()
    monkeypatch.setattr(private_training, "secret_generator", lambda: everybody)
    clipped = private_training.clipped_sum  # over a network, samples are computed one by one, with dropout of their own
    monkeypatch.setattr(private_training, "clipped_sum", lambda *given: clipped(*given[:4], 1, *given[5:]))
    words = ["privacy.update_clip=0.5", "train.optimizer=sgd", "train.lr=0.5", "method.name=full"]
    words += ["clients.tiers=[{share: 1, blocks: 3}]", "train.selection=last", "train.server.name=none"]
    network, folder, summary = played(net, *words)
    assert (summary.status, summary.rounds) == ("finished", 2)
    releases = {(one["name"], one.get("client")): one["times"] for one in summary.privacy["releases"]}
    steps = releases["steps on single samples", 0]
    assert (
        releases == {("head statistics", None): 1, **{("steps on single samples", k): steps for k in range(3)}}
        and steps >= 2
    )
    assert 7.5 < summary.privacy["epsilon"] <= 8.0 and summary.privacy["unit"] == "sample"
    for worker in network.workers.values():
        own = worker._client.ledger.spent
        assert 7.5 < own.epsilon <= 8.0
        assert {one.name: one.times for one in own.releases} == {"head statistics": 1, "steps on single samples": steps}

    here = RunFolder(net / "runs" / "here")
    session = prepare(load_config(net / "net.yaml", [*SAMPLES, *words, "run.name=here"]))
    run_session(session, here)
    ours, theirs = (load_file(one.path / "adapter" / "adapter_model.safetensors") for one in (here, folder))
    assert ours.keys() == theirs.keys()
    moved = max(float(ours[name].abs().max()) for name in ours if "lora_B" in name)
    assert moved > 1e-3
    assert all(torch.allclose(ours[name], theirs[name], rtol=0, atol=1e-3 * moved) for name in ours)


def test_a_server_that_asks_for_more_than_it_promised_is_refused_and_the_client_stays_silent(net):
    def asks_for(change):
        def tampered(network):
            worker = network.workers["part-001"]
            plain = worker.answer

            def answer(kind, fields):
                if kind == "train":
                    task = decode_task(fields["task"], fields["client"], worker._client.model.block_of)
                    fields = fields | {"task": encode_task(change(task))}
                return plain(kind, fields)

            worker.answer = answer

        return tampered

    for name, change in {
        "no noise": lambda task: replace(task, steps=None),
        "little noise": lambda task: replace(task, steps=replace(task.steps, noise=0.1)),
        "every sample": lambda task: replace(task, steps=replace(task.steps, rate=1.0, steps=60)),
    }.items():
        network = network_of()
        asks_for(change)(network)
        folder = RunFolder(net / "runs" / name.replace(" ", "-"))
        with pytest.raises(QuorumError, match=r"client 1 \(part-001\) not allowed: its owner does not allow"):
            play_over(network, load(config_of(net, *SAMPLES, "train.retries=1")), folder, [], lambda line: None)
        assert [one.name for one in network.workers["part-001"]._client.ledger.spent.releases] == ["head statistics"]


def config(**privacy):
    words = [
        f"privacy.{key}={value}" for key, value in {"epsilon": 8, "unit": "sample", "secure": True, **privacy}.items()
    ]
    return load_config(None, ["train.loss=cross_entropy", "train.clients_per_round=3", "method.name=rgd-hla", *words])


def task(noise=1.0, rate=0.1, steps=10):
    return Task(0, 0, Allocation((0,)), Adapter({}, {}), clip=1.0, steps=NoisySteps(noise, rate, steps))


def test_a_file_counts_over_runs_and_nothing_leaves_before_it_is_written(tmp_path):
    consent, row = Consent(epsilon=8, delta=1e-5, ledger=tmp_path / "spent.json"), METHODS["rgd-hla"]
    first = own_ledger(config(), row, consent, 100)
    first.train(task())
    written = json.loads(consent.ledger.read_text())
    assert written["epsilon"] == pytest.approx(first.spent.epsilon) and written["unit"] == "sample"
    # Another run at the same time, which read the file before: it counts what the first wrote since.
    again = own_ledger(config(epsilon=4), row, consent, 100)
    first.train(task())
    again.train(task())
    assert json.loads(consent.ledger.read_text())["releases"][0]["times"] == 30
    with pytest.raises(RefusalError, match="ε of 8 at δ=1e-05 for its samples, by its own ledger"):
        for _ in range(300):
            again.train(task())
    assert json.loads(consent.ledger.read_text())["epsilon"] <= 8.0
    with pytest.raises(RefusalError, match="what its ledger has room for"):
        own_ledger(config(), row, consent, 100)
    # At another δ the same releases have another ε; no server decides which.
    assert own_ledger(config(delta=1e-6), row, consent.model_copy(update={"epsilon": 40.0}), 100).spent.delta == 1e-5
    assert own_ledger(config(), row, Consent(), 100).spent.releases == ()
    consent.ledger.write_text("[")
    with pytest.raises(PrivacyError, match="found no JSON"):
        own_ledger(config(), row, consent, 100)


def test_a_server_that_asks_to_join_again_begins_no_new_ledger(net, tmp_path):
    """Neither in one process nor, by the file that lasts as long as the client, in the next."""
    network, *_ = played(net)
    worker = network.workers["part-001"]
    before = worker._client.ledger.spent
    raw, labels = worker._joined
    asked = json.loads(raw) | {"run": {"seed": 1}}
    asked["privacy"]["epsilon"] = 50.0
    fields = {"config": json.dumps(asked), "labels": labels, "protocol": PROTOCOL, "version": version("fedhello")}
    assert "facts" in worker.answer("join", fields)
    after = worker._client.ledger.spent
    assert (after.releases, after.budget) == (before.releases, 8.0)
    with pytest.raises(RefusalError, match="head statistics once"):
        worker._client.ledger.sums(adapter=False)
    with pytest.raises(RefusalError, match="the same steps in every round"):
        worker._client.ledger.train(task())
    row, kept = METHODS["rgd-hla"], tmp_path / "kept.json"
    own_ledger(config(), row, Consent(), 100, kept).train(task())
    with pytest.raises(RefusalError, match="what its ledger has room for"):  # half of 50 is the head's
        own_ledger(config(epsilon=50), row, Consent(), 100, kept)
    next_one = own_ledger(config(epsilon=9), row, Consent(), 100, kept)
    assert (next_one.spent.budget, next_one.spent.releases[0].times) == (8.0, 10)


@pytest.mark.parametrize("owned", [False, True])
def test_what_the_first_request_fixed_holds_in_a_worker_that_is_started_anew(tmp_path, owned):
    """As long as the client's process, whatever configuration a server joins with; whoever counts the releases."""
    kept, row = tmp_path / "ledger.json", METHODS["rgd-hla"]
    mine = {"epsilon": 12, "delta": 1e-5, "ledger": tmp_path / "spent.json"} if owned else {}
    first = own_ledger(config(), row, Consent(**mine), 100, kept)
    first.sums(adapter=False)
    first.train(task())
    left = own_ledger(config(), row, Consent(**mine), 100, kept)
    while left.spent.epsilon < 7:  # no room for head statistics again, which are not asked for again
        left.train(task())
    again = own_ledger(config(delta=1e-5), row, Consent(**mine), 100, kept)
    assert again.spent == left.spent
    with pytest.raises(RefusalError, match="head statistics once"):
        again.sums(adapter=False)
    for other in (task(noise=2.0), task(steps=9)):
        with pytest.raises(RefusalError, match="the same steps in every round"):
            again.train(other)
    again.train(task())
    anew = own_ledger(config(), row, Consent(**mine | {"epsilon": 40} if owned else {}), 100, tmp_path / "b" / "l.json")
    assert (anew.how, anew.asked) == (None, False)  # another process, whose owner started it anew


def test_only_what_is_counted_is_answered():
    ledger = own_ledger(config(), METHODS["rgd-hla"], Consent(), 100)
    with pytest.raises(RefusalError, match="no Fisher scores of clients"):
        ledger.scores()
    with pytest.raises(RefusalError, match="head statistics once, before training"):
        ledger.sums(adapter=True)
    ledger.sums(adapter=False)
    with pytest.raises(RefusalError, match="head statistics once"):
        ledger.sums(adapter=False)
    with pytest.raises(RefusalError, match=r"one sample or more on average, .* found 0\.9"):
        ledger.train(task(rate=0.009))
    ledger.train(task())
    with pytest.raises(RefusalError, match="the same steps in every round"):
        ledger.train(task(noise=1.1))
    alone = own_ledger(config(), METHODS["head-only"], Consent(), 100)
    alone.sums(adapter=False)
    assert 7.9 < alone.spent.epsilon <= 8.0  # the whole budget is the head's
    with pytest.raises(RefusalError, match="a task without"):
        alone.train(task())
    with pytest.raises(RefusalError, match="a δ below 1/100000"):
        own_ledger(config(), METHODS["head-only"], Consent(), 100_000)
    assert own_ledger(head(), METHODS["head-only"], Consent(), 100) is None


@pytest.mark.parametrize(
    ("keys", "privacy", "said"),
    [
        ({"epsilon": 4}, {}, "ε of at most 4 .* found ε=8 at δ=1e-05"),
        ({"epsilon": 8, "delta": 1e-6}, {}, "δ of at most 1e-06"),
        ({"epsilon": 8}, {"epsilon": "null"}, "found none"),
        ({"epsilon": 8, "ledger": "spent.json"}, {"unit": "client"}, "found privacy.unit=client"),
    ],
)
def test_an_owner_takes_part_in_what_protects_enough_alone(net, keys, privacy, said):
    from fedhello.network.consent import check_invitation

    stated = read_consent(keys)
    with pytest.raises(RefusalError, match=said):
        check_invitation(stated, config(**privacy) if privacy.get("unit") != "client" else head(), 3, False, None)
    check_invitation(read_consent({"epsilon": 8}), config(), 3, False, None)


def head():
    return load_config(None, ["method.name=head-only", "privacy.epsilon=8"])


def test_a_ledger_needs_a_budget():
    with pytest.raises(ConfigError, match="expected epsilon beside ledger"):
        read_consent({"ledger": "spent.json"})
